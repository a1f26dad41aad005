//! What the ledger says of drills.
use palinurus_proto::metrics::{Kind, Page};
use palinurus_proto::v1::{DrillStanding, DrillState};
use palinurus_repository::ledger::State;

/// Of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drills {
    /// Backups of which a node was found wrong by its last drill.
    failed: usize,
    /// When a node of a backup was last proved, and how long that took until it was of use.
    proved: Option<(u64, u64)>,
    stands: DrillState,
}

pub(super) fn look(state: &State, standing: &DrillStanding) -> Drills {
    let mut found = Drills { stands: standing.state(), ..Drills::default() };
    for backup in state.backups() {
        found.failed += usize::from(state.drilled(backup.id).any(|last| !last.proof.passed()));
        let passed = state.drilled(backup.id).filter(|last| last.proof.passed());
        found.proved = found.proved.max(passed.map(|last| (last.when.0, last.proof.rto_ms)).max());
    }
    found
}

pub(super) fn show(page: &mut Page, services: &[(&str, Drills)]) {
    const FAILED: &str = "palinurus_drill_failed";
    page.family(FAILED, Kind::Gauge, "Backups that their last drill has found wrong.");
    for (service, drills) in services {
        page.sample(FAILED, &[("service", service)], drills.failed);
    }
    const FAILING: &str = "palinurus_drill_failing";
    page.family(FAILING, Kind::Gauge, "1 from a drill that failed until a later one has passed.");
    for (service, drills) in services {
        page.sample(FAILING, &[("service", service)], u8::from(drills.stands == DrillState::DrillFailed));
    }
    const MISSING: &str = "palinurus_drill_missing";
    page.family(
        MISSING,
        Kind::Gauge,
        "1 while drills are asked for and none has passed, or none for two intervals.",
    );
    for (service, drills) in services {
        let missing = matches!(drills.stands, DrillState::DrillNever | DrillState::DrillLate);
        page.sample(MISSING, &[("service", service)], u8::from(missing));
    }
    let families = [
        ("palinurus_drill_last_passed_timestamp_seconds", "When a backup was last proved by a drill."),
        ("palinurus_drill_rto_seconds", "From that drill's restore until the data was of use."),
    ];
    for (at, (name, what)) in families.into_iter().enumerate() {
        page.family(name, Kind::Gauge, what);
        let proved = services.iter().filter_map(|(service, drills)| Some((service, drills.proved?)));
        for (service, (when, rto)) in proved {
            let ms = if at == 0 { when } else { rto };
            page.sample(name, &[("service", service)], ms as f64 / 1000.0);
        }
    }
}
