//! How services stand by their schedules.
use palinurus_proto::metrics::{Kind, Page};
use palinurus_proto::v1::{Health, Service, Standing};

pub(super) fn show(page: &mut Page, services: &[Service]) {
    let standing = |service: &Service| service.standing.clone().unwrap_or_default();
    const HEALTH: &str = "palinurus_service_health";
    page.family(HEALTH, Kind::Gauge, "1 for how the service stands, 0 for how it does not.");
    for service in services {
        for health in Health::ALL {
            let is = u8::from(standing(service).health() == health);
            page.sample(HEALTH, &[("service", &service.name), ("health", health.name())], is);
        }
    }
    const FAILURES: &str = "palinurus_backup_failures";
    page.family(FAILURES, Kind::Gauge, "Backups that have failed since the last good one.");
    for service in services {
        page.sample(FAILURES, &[("service", &service.name)], standing(service).failures);
    }
    const NEXT: &str = "palinurus_next_backup_timestamp_seconds";
    page.family(NEXT, Kind::Gauge, "When the next backup begins by itself.");
    for service in services {
        let Standing { next_ms: next @ 1.., .. } = standing(service) else { continue };
        page.sample(NEXT, &[("service", &service.name)], next as f64 / 1000.0);
    }
}
