//! Reads a service's data again, a share each day, and so finds damage before a restore needs it. Pure: says when the
//! next part is due; an agent reads it, as the task of a check.
//!
//! The parts of a round are read in order, and where it stands is in the last operation that nobody asked for. So a
//! takeover goes on, and a day without an agent makes the round longer, but leaves nothing out.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::verify::ReadData;
use palinurus_repository::{Error, Result, Timestamp};

pub(crate) const SETTING: &str = "scrub";
/// About so many parts a day: what a backup interrupts is read again from its part's beginning.
const A_DAY: u32 = 4;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// After a part that was not read, because no agent was there or something else had to run.
const AGAIN: Duration = Duration::from_secs(10 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Off,
    Wait(Timestamp),
    /// As of [`ReadData::share`], the part in the place of the day.
    Read {
        percent: u32,
        part: u64,
    },
}

/// `N%` of the data a day; `off` or nothing for none.
pub(crate) fn percent(settings: &HashMap<String, String>) -> Result<u32> {
    let Some(text) = settings.get(SETTING) else { return Ok(0) };
    if text == "off" {
        return Ok(0);
    }
    let number = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
    number.filter(|percent| (1..=100).contains(percent)).ok_or_else(|| {
        Error::invalid(format!("scrub {text:?}"))
            .with_hint("off, or how much is read each day: from \"1%\" to \"100%\"")
    })
}

/// `past` are the service's ended operations.
pub(crate) fn consider<'a>(
    settings: &HashMap<String, String>,
    past: impl Iterator<Item = &'a v1::Operation>,
    now: Timestamp,
) -> Verdict {
    let Some(a_day) = percent(settings).ok().filter(|percent| *percent > 0) else { return Verdict::Off };
    let percent = (a_day / A_DAY).max(1);
    let parts = ReadData::days(percent);
    // So that a round takes 100 / `a_day` days.
    let every = Duration::from_millis(DAY_MS * 100 / (u64::from(a_day) * parts));
    let mine = past.filter_map(|operation| Some((operation, operation.verify.as_ref()?)));
    let last = mine.filter(|(_, detail)| detail.automatic).max_by_key(|(operation, _)| operation.created_ms);
    let Some((operation, detail)) = last else { return Verdict::Read { percent, part: 0 } };
    let (part, due) = match was_read(operation) {
        true => (detail.day.saturating_add(1), Timestamp(operation.created_ms).plus(every)),
        false => (detail.day, Timestamp(operation.finished_ms).plus(AGAIN)),
    };
    // Another share makes other parts: any beginning is as good.
    if now < due { Verdict::Wait(due) } else { Verdict::Read { percent, part: part % parts } }
}

/// Old scrubs that found nothing; the last is needed.
pub(crate) fn forgettable<'a>(past: impl Iterator<Item = &'a v1::Operation>) -> Vec<v1::Operation> {
    let automatic =
        |operation: &&v1::Operation| operation.verify.as_ref().is_some_and(|verify| verify.automatic);
    let mut mine: Vec<&v1::Operation> = past.filter(automatic).collect();
    mine.sort_by_key(|operation| operation.created_ms);
    mine.pop();
    let told =
        |operation: &&v1::Operation| operation.verify.as_ref().is_some_and(|verify| verify.damage_count > 0);
    mine.into_iter().filter(|operation| !told(operation)).cloned().collect()
}

/// Damage that was found does not make it unread.
fn was_read(operation: &v1::Operation) -> bool {
    match operation.state() {
        OperationState::Succeeded | OperationState::Warnings => true,
        OperationState::Failed => operation.failure.as_ref().is_some_and(|failure| failure.kind == "corrupt"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(scrub: &str) -> HashMap<String, String> {
        [(SETTING.to_owned(), scrub.to_owned())].into()
    }

    fn ended(part: u64, at: Timestamp, state: OperationState, kind: &str) -> v1::Operation {
        let mut operation = v1::Operation {
            created_ms: at.0,
            finished_ms: at.0 + 1000,
            verify: Some(v1::VerifyDetail { automatic: true, day: part, ..Default::default() }),
            failure: Some(v1::Failure { kind: kind.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        operation.set_state(state);
        operation
    }

    #[test]
    fn a_round_reads_every_part_in_order_and_as_fast_as_it_was_told() {
        for (setting, share, days) in [("1%", 1, 100), ("5%", 1, 20), ("100%", 25, 1), ("33%", 8, 3)] {
            let parts = ReadData::days(share);
            let mut past: Vec<v1::Operation> = Vec::new();
            let mut now = Timestamp(1_700_000_000_000);
            let began = now;
            let mut read = Vec::new();
            while read.len() < 2 * parts as usize {
                match consider(&settings(setting), past.iter(), now) {
                    Verdict::Wait(until) => now = until,
                    Verdict::Read { percent, part } => {
                        assert_eq!(percent, share);
                        // Every third one is kept from it, and asked for again.
                        let last = past.last().map(v1::Operation::state);
                        let kept = read.len() % 3 == 0 && last != Some(OperationState::Cancelled);
                        let state = if kept { OperationState::Cancelled } else { OperationState::Succeeded };
                        past.push(ended(part, now, state, ""));
                        read.extend((!kept).then_some(part));
                        now = now.plus(Duration::from_secs(7));
                        for old in forgettable(past.iter()) {
                            past.retain(|operation| *operation != old);
                        }
                        assert_eq!(past.len(), 1, "of those that say nothing one is enough");
                    }
                    Verdict::Off => panic!(),
                }
            }
            assert_eq!(read, (0..2 * parts).map(|part| part % parts).collect::<Vec<_>>(), "{setting}");
            let took = now.since(began).as_millis() as u64 / DAY_MS;
            assert!((2 * days - 1..=2 * days + 2).contains(&took), "{setting}: {took} days");
        }
    }

    #[test]
    fn damage_counts_as_read_and_what_was_never_read_is_asked_for_again() {
        let at = Timestamp(1_700_000_000_000);
        let late = Timestamp(at.0 + DAY_MS);
        let next = |state, kind| consider(&settings("10%"), [ended(3, at, state, kind)].iter(), late);
        let part = |part| Verdict::Read { percent: 2, part };
        assert_eq!(next(OperationState::Failed, "corrupt"), part(4));
        assert_eq!(next(OperationState::Failed, "unavailable"), part(3));
        assert_eq!(next(OperationState::Cancelled, ""), part(3));
        let soon = consider(&settings("10%"), [ended(3, at, OperationState::Cancelled, "")].iter(), at);
        assert_eq!(soon, Verdict::Wait(Timestamp(at.0 + 1000).plus(AGAIN)));
    }

    #[test]
    fn what_was_found_stays_in_the_history() {
        let mut found = ended(1, Timestamp(1), OperationState::Failed, "corrupt");
        found.verify.as_mut().unwrap().damage_count = 1;
        let asked = v1::Operation { verify: Some(v1::VerifyDetail::default()), ..Default::default() };
        let [second, third] = [2, 3].map(|at| ended(2, Timestamp(at), OperationState::Succeeded, ""));
        let all = [found, asked, second.clone(), third];
        assert_eq!(forgettable(all.iter()), [second]);
    }

    #[test]
    fn nothing_is_read_where_nothing_was_asked_for() {
        let asked = |settings| consider(&settings, std::iter::empty(), Timestamp(5));
        assert_eq!(asked(HashMap::new()), Verdict::Off);
        assert_eq!(asked(settings("off")), Verdict::Off);
        for wrong in ["5", "0%", "101%", "x", "-1%", ""] {
            assert!(percent(&settings(wrong)).is_err(), "{wrong}");
        }
    }
}
