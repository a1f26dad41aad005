//! What an agent counts, for Prometheus.
use std::sync::Arc;

use palinurus_proto::metrics::{self, Kind, Page};
use palinurus_repository::Result;
use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::runner::Runner;

/// Until cancelled, where the settings name an address.
pub(crate) async fn serve(host: &Arc<Host>, runner: &Runner, cancel: CancellationToken) -> Result<()> {
    let wanted = &host.config.metrics;
    if wanted.is_empty() {
        return Ok(());
    }
    let (file, host, runner) = (host.state.path().join("metrics-address"), Arc::clone(host), runner.clone());
    let page = move || page(Arc::clone(&host), runner.clone());
    metrics::serve(wanted, &file, cancel, page).await.map(drop)
}

async fn page(host: Arc<Host>, runner: Runner) -> Page {
    let mut page = Page::default();
    page.build(env!("CARGO_PKG_VERSION"));
    let labels = [("service", host.config.service.as_str()), ("node", host.config.node.as_str())];
    page.family("palinurus_agent_connected", Kind::Gauge, "1 while a coordinator has this agent's session.");
    page.sample("palinurus_agent_connected", &labels, u8::from(host.leader.borrow().is_some()));
    page.family("palinurus_agent_tasks", Kind::Gauge, "Tasks that run.");
    page.sample("palinurus_agent_tasks", &labels, runner.running().len());
    page.requests(&[(host.config.service.clone(), host.repositories.all_requests().await)]);
    page
}
