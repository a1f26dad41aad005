//! What a step cost whom.
use super::report::{Cost, LimitOf, OURS, Spread, Step};
use super::scenario::Scenario;

/// The costs of one step, by round, ours first.
pub(super) struct Found {
    scenario: Scenario,
    bytes: u64,
    who: Vec<(&'static str, Vec<Cost>)>,
    limit: Vec<f64>,
}

impl Found {
    pub(super) fn limit(&self) -> Option<LimitOf> {
        let what = match self.scenario {
            Scenario::Cold => "read, hash, compress and seal on these cores, nothing else",
            Scenario::Unchanged => "ask for the size and times of every file",
            Scenario::Restore => "the same bytes, read from memory and written to the disk",
            _ => return None,
        };
        let seconds = Spread::of(self.limit.iter().copied())?;
        Some(LimitOf { step: self.scenario.name(), what, seconds })
    }

    pub(super) fn step(self) -> Step {
        Step::new(self.scenario.name(), self.bytes, self.who, &self.limit)
    }
}

pub(super) fn keep(
    found: &mut Vec<Found>,
    scenario: Scenario,
    bytes: u64,
    mut costs: Vec<(&'static str, Cost)>,
    limit: Option<f64>,
) {
    let at = found.iter().position(|found| found.scenario == scenario).unwrap_or_else(|| {
        found.push(Found { scenario, bytes, who: vec![(OURS, Vec::new())], limit: Vec::new() });
        found.len() - 1
    });
    let found = &mut found[at];
    found.bytes = found.bytes.max(bytes);
    found.limit.extend(limit);
    // In the order of their names: turns change from round to round.
    costs.sort_by_key(|(name, _)| (*name != OURS, *name));
    for (name, cost) in costs {
        match found.who.iter_mut().find(|(known, _)| *known == name) {
            Some((_, costs)) => costs.push(cost),
            None => found.who.push((name, vec![cost])),
        }
    }
}
