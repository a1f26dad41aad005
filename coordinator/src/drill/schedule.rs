//! When a drill is due that nobody asked for. Pure: where the schedule stands is in the last such operation, so that a
//! takeover goes on.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::{Error, Result, Timestamp};

pub(crate) const SETTING: &str = "drill";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A restore of all is much for a database's machine.
const LEAST: Duration = Duration::from_secs(60 * 60);
/// After one that gave way to something else.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// After one that said nothing of the backup, such as for want of room.
const MENDED: Duration = Duration::from_secs(6 * 60 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Off,
    Wait(Timestamp),
    Due,
}

/// `daily`, `weekly`, `monthly` or a time between two drills; `off` or nothing for none.
pub(crate) fn every(settings: &HashMap<String, String>) -> Result<Option<Duration>> {
    let Some(text) = settings.get(SETTING) else { return Ok(None) };
    let every = match text.as_str() {
        "off" => return Ok(None),
        "daily" => Some(DAY),
        "weekly" => Some(DAY * 7),
        "monthly" => Some(DAY * 30),
        other => humantime::parse_duration(other).ok().filter(|every| *every >= LEAST),
    };
    every.map(Some).ok_or_else(|| {
        Error::invalid(format!("drill {text:?}"))
            .with_hint("off, daily, weekly, monthly, or a time of at least an hour such as \"3days\"")
    })
}

/// `past` are the service's ended operations.
pub(crate) fn consider<'a>(
    settings: &HashMap<String, String>,
    past: impl Iterator<Item = &'a v1::Operation>,
    now: Timestamp,
) -> Verdict {
    let Some(every) = every(settings).ok().flatten() else { return Verdict::Off };
    let automatic =
        |operation: &&v1::Operation| operation.drill.as_ref().is_some_and(|drill| drill.automatic);
    let Some(last) = past.filter(automatic).max_by_key(|operation| operation.created_ms) else {
        return Verdict::Due;
    };
    let ended = Timestamp(last.finished_ms);
    let due = match last.state() {
        _ if has_said(last) => Timestamp(last.created_ms).plus(every),
        OperationState::Cancelled => ended.plus(AGAIN),
        _ => ended.plus(MENDED.min(every)),
    };
    if now < due { Verdict::Wait(due) } else { Verdict::Due }
}

/// A backup that is found wrong was drilled as well.
fn has_said(operation: &v1::Operation) -> bool {
    operation.drill.as_ref().is_some_and(|drill| drill.recorded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(drill: &str) -> HashMap<String, String> {
        [(SETTING.to_owned(), drill.to_owned())].into()
    }

    fn ended(state: OperationState, recorded: bool) -> v1::Operation {
        let drill = v1::DrillDetail { automatic: true, recorded, ..Default::default() };
        let mut operation = v1::Operation {
            created_ms: 1_000,
            finished_ms: 61_000,
            drill: Some(Box::new(drill)),
            ..Default::default()
        };
        operation.set_state(state);
        operation
    }

    #[test]
    fn goes_on_where_the_last_one_stands() {
        let week = 7 * 24 * 60 * 60 * 1000;
        let at =
            |operation: v1::Operation, now| consider(&settings("weekly"), [operation].iter(), Timestamp(now));
        for state in [OperationState::Succeeded, OperationState::Failed] {
            assert_eq!(at(ended(state, true), week), Verdict::Wait(Timestamp(1_000 + week)));
            assert_eq!(at(ended(state, true), week + 1_000), Verdict::Due);
        }
        assert_eq!(at(ended(OperationState::Cancelled, false), 62_000), Verdict::Wait(Timestamp(661_000)));
        let soon = at(ended(OperationState::Failed, false), 62_000);
        assert_eq!(soon, Verdict::Wait(Timestamp(61_000).plus(MENDED)));
        let asked = v1::Operation { drill: Some(Box::default()), ..ended(OperationState::Succeeded, true) };
        assert_eq!(at(asked, 62_000), Verdict::Due, "what was asked for is no part of the schedule");
        assert_eq!(consider(&settings("daily"), std::iter::empty(), Timestamp(5)), Verdict::Due);
    }

    #[test]
    fn says_what_it_does_not_understand() {
        assert_eq!(every(&HashMap::new()).unwrap(), None);
        assert_eq!(every(&settings("off")).unwrap(), None);
        assert_eq!(every(&settings("3days")).unwrap(), Some(DAY * 3));
        for wrong in ["", "1", "0s", "59min", "often"] {
            assert!(every(&settings(wrong)).unwrap_err().hint().unwrap().contains("weekly"), "{wrong}");
        }
    }
}
