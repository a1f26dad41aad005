//! How services stand by their schedules.
use palinurus_proto::metrics::{Kind, Page};
use palinurus_proto::v1::{Health, Power, PowerState, Service, Standing};

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
    const POWER: &str = "palinurus_service_power";
    page.family(POWER, Kind::Gauge, "1 for how the service's power is, 0 for how it is not.");
    for service in services {
        let power = service.power.as_ref().map(Power::state).unwrap_or_default();
        for state in PowerState::ALL {
            let is = u8::from(power == state);
            page.sample(POWER, &[("service", &service.name), ("power", state.name())], is);
        }
    }
    const REVIEW: &str = "palinurus_service_review";
    page.family(REVIEW, Kind::Gauge, "1 while a service that is off is listed for review.");
    for service in services {
        let listed = service.power.as_ref().is_some_and(|power| power.review_ms > 0);
        page.sample(REVIEW, &[("service", &service.name)], u8::from(listed));
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
