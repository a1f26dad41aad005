//! What a coordinator counts, for Prometheus. A standby says that it is one; the leader says the rest.
use std::collections::BTreeMap;
use std::time::Duration;

use palinurus_proto::metrics::{self, Kind, Page};
use palinurus_proto::v1;
use palinurus_repository::Result;
use tokio_util::sync::CancellationToken;

use crate::api::Reads;
use crate::door::{Door, Lead};
use crate::shared::Base;

mod drills;
mod standing;

/// For one service to say what it has: one that is busy is left out of this page.
const PATIENCE: Duration = Duration::from_secs(1);

/// Until cancelled, where the settings name an address.
pub(crate) async fn serve(base: &Base, door: Door, cancel: CancellationToken) -> Result<()> {
    let wanted = &base.config.metrics;
    if wanted.is_empty() {
        return Ok(());
    }
    let file = base.config.state.join("metrics-address");
    metrics::serve(wanted, &file, cancel, move || page(door.clone())).await.map(drop)
}

async fn page(door: Door) -> Page {
    let mut page = Page::default();
    page.build(env!("CARGO_PKG_VERSION"));
    let lead = door.lead().ok();
    page.family("palinurus_leader", Kind::Gauge, "1 while this coordinator leads.");
    page.sample("palinurus_leader", &[], u8::from(lead.is_some()));
    if let Some(lead) = lead {
        page.family("palinurus_epoch", Kind::Gauge, "The leader's epoch.");
        page.sample("palinurus_epoch", &[], lead.shared.records.epoch().0);
        operations(&mut page, &lead);
        services(&mut page, &lead).await;
    }
    page
}

/// Of those that are kept: an ended one leaves when it is old.
fn operations(page: &mut Page, lead: &Lead) {
    const NAME: &str = "palinurus_operations";
    let mut counts: BTreeMap<(String, &str, &str), u64> = BTreeMap::new();
    for operation in lead.board().list() {
        let what = (operation.service.clone(), operation.kind().name(), operation.state().name());
        *counts.entry(what).or_default() += 1;
    }
    page.family(NAME, Kind::Gauge, "Operations that are kept, by how they stand.");
    for ((service, kind, state), count) in counts {
        page.sample(NAME, &[("service", &service), ("kind", kind), ("state", state)], count);
    }
}

async fn services(page: &mut Page, lead: &Lead) {
    let Ok(Ok(described)) = tokio::time::timeout(PATIENCE, lead.described(None)).await else { return };
    let (mut requests, mut backups, mut logs) = (Vec::new(), Vec::new(), Vec::new());
    let mut proofs = Vec::new();
    let operations = lead.board().list();
    for each in &described {
        let name = &each.service.name;
        let Ok(Some(vault)) = tokio::time::timeout(PATIENCE, lead.opened(name)).await else { continue };
        requests.push((name.clone(), vault.requests()));
        logs.extend(vault.logs.writer().map(|writer| (name.as_str(), writer)));
        // Behind a lock that is held while the store is asked.
        let look = vault.repository.read(|state| {
            let newest = state.backups().next_back().map(|newest| newest.committed.0);
            let spoiled = state.backups().filter(|backup| state.is_spoiled(backup)).count();
            (state.backups().count(), spoiled, newest)
        });
        let own = operations.iter().map(|it| &**it).filter(|it| it.service == *name);
        let now = lead.shared.now();
        let proved = vault
            .repository
            .read(|state| drills::look(state, &crate::drill::standing(&each.service, state, own, now)));
        if let Ok(found) = tokio::time::timeout(PATIENCE, proved).await {
            proofs.push((name.as_str(), found));
        }
        if let Ok(found) = tokio::time::timeout(PATIENCE, look).await {
            backups.push((name, found));
        }
    }
    nodes(page, described.iter().map(|each| (each.service.name.as_str(), each.nodes.as_slice())));
    page.family("palinurus_backups", Kind::Gauge, "Backups that can be restored.");
    for (service, (count, ..)) in &backups {
        page.sample("palinurus_backups", &[("service", service)], count);
    }
    const SPOILED: &str = "palinurus_backups_spoiled";
    page.family(SPOILED, Kind::Gauge, "Those of them that need something known to be damaged.");
    for (service, (_, spoiled, _)) in &backups {
        page.sample(SPOILED, &[("service", service)], spoiled);
    }
    const NEWEST: &str = "palinurus_newest_backup_timestamp_seconds";
    page.family(NEWEST, Kind::Gauge, "When the newest backup was committed.");
    const AGE: &str = "palinurus_newest_backup_age_seconds";
    let newest: Vec<_> = backups.iter().filter_map(|(service, (.., at))| Some((*service, (*at)?))).collect();
    for (service, at) in &newest {
        page.sample(NEWEST, &[("service", service)], *at as f64 / 1000.0);
    }
    page.family(AGE, Kind::Gauge, "How old the newest backup is, by this machine's clock.");
    for (service, at) in &newest {
        let age = lead.shared.now().0.saturating_sub(*at);
        page.sample(AGE, &[("service", service)], age as f64 / 1000.0);
    }
    drills::show(page, &proofs);
    let stand = described.iter().map(|each| (lead as &dyn Reads).standing(each.service.clone()));
    standing::show(page, &futures::future::join_all(stand).await);
    log_streams(page, &logs);
    page.requests(&requests);
}

fn log_streams(page: &mut Page, logs: &[(&str, v1::LogWriterView)]) {
    type Of = fn(&v1::LogWriterView) -> f64;
    let families: [(&str, &str, Of); 4] = [
        ("palinurus_log_streaming", "1 while a node gives the service's log.", |it| {
            u8::from(it.streaming).into()
        }),
        (
            "palinurus_log_lag_bytes",
            "What the server has written of its log and the store does not have.",
            |it| it.lag_bytes as f64,
        ),
        ("palinurus_log_lag_seconds", "How old the newest that the store has is, as last told.", |it| {
            it.lag_ms as f64 / 1000.0
        }),
        ("palinurus_log_gaps", "Parts of the log that were lost since this coordinator leads.", |it| {
            it.gaps.len() as f64
        }),
    ];
    for (name, what, of) in families {
        page.family(name, Kind::Gauge, what);
        for (service, writer) in logs {
            page.sample(name, &[("service", service), ("node", &writer.node)], of(writer));
        }
    }
}

fn nodes<'a>(page: &mut Page, services: impl Iterator<Item = (&'a str, &'a [v1::Node])>) {
    const NAME: &str = "palinurus_nodes";
    page.family(NAME, Kind::Gauge, "Nodes with an agent that is connected, and without.");
    for (service, nodes) in services {
        let connected = nodes.iter().filter(|node| node.connected).count();
        page.sample(NAME, &[("service", service), ("state", "connected")], connected);
        page.sample(NAME, &[("service", service), ("state", "gone")], nodes.len() - connected);
    }
}
