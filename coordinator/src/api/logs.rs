//! What of a service's log is stored, and to which moments it leads.
use palinurus_proto::logs::lineage_to_wire;
use palinurus_proto::v1;
use palinurus_repository::log::Survey;
use palinurus_repository::{ErrorKind, Result};

use crate::door::Lead;

impl Lead {
    pub(super) async fn show_logs(&self, service: &str) -> Result<v1::Logs> {
        let vault = Self::vault(&self.service(service).await?).await?;
        let mut survey = Survey::of(&vault.repository).await?;
        let windows = match windows(&survey, &[ErrorKind::Corrupt]).await {
            // A piece was swept since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                survey = Survey::of(&vault.repository).await?;
                windows(&survey, &[ErrorKind::Corrupt, ErrorKind::NotFound]).await?
            }
            other => other?,
        };
        let lineages = survey.lineages.values().map(|lineage| {
            let stretches = survey.coverage.get(&lineage.id).map(|covered| covered.stretches().to_vec());
            let (objects, bytes) = survey.stored.get(&lineage.id).copied().unwrap_or_default();
            let stretches = stretches.unwrap_or_default().into_iter();
            v1::LogLineageView {
                lineage: Some(lineage_to_wire(lineage)),
                stretches: stretches.map(|(from, to)| v1::LogStretch { from, to }).collect(),
                objects,
                bytes,
            }
        });
        Ok(v1::Logs {
            service: service.to_owned(),
            lineages: lineages.collect(),
            windows,
            writer: vault.logs.writer(),
            failures: vault.logs.failures(),
        })
    }
}

/// Failures of those kinds, of one object, hide nothing but the times of a window.
async fn windows(survey: &Survey, passed: &[ErrorKind]) -> Result<Vec<v1::LogWindow>> {
    let mut windows = Vec::with_capacity(survey.windows.len());
    for window in &survey.windows {
        let (from, to) = match survey.times(window).await {
            Ok(times) => times,
            Err(e) if passed.contains(&e.kind()) => {
                tracing::warn!(error = e.chain(), "the times of a window are not known");
                (window.anchor.committed, None)
            }
            Err(e) => return Err(e),
        };
        windows.push(v1::LogWindow {
            backup_id: window.anchor.backup.to_string(),
            node: window.anchor.node.clone(),
            chain: window.chain.iter().map(|id| id.as_bytes().to_vec().into()).collect(),
            from: window.from,
            to: window.to,
            from_ms: from.0,
            to_ms: to.unwrap_or(from).0,
        });
    }
    Ok(windows)
}
