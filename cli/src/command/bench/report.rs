//! The benchmark's result: a table, or with `--json` this object. Nothing is in it that was not measured.
use serde::Serialize;

use super::room::AGENT_MEMORY;
use crate::human;
use crate::output::table;

pub(super) const OURS: &str = "palinurus";

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) cores: usize,
    pub(super) rounds: usize,
    /// "local folder", or the kind of store.
    pub(super) store: String,
    /// The machine's load when it began and when it ended: above the cores, seconds are worth little.
    pub(super) load: [f64; 2],
    pub(super) peers: Vec<Installed>,
    /// What was not measured, and why.
    pub(super) skipped: Vec<Skipped>,
    /// What an agent may take, and the most that one took.
    pub(super) agent_memory_bound: u64,
    pub(super) agent_memory: u64,
    pub(super) sets: Vec<Set>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Installed {
    pub(super) name: &'static str,
    pub(super) version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Skipped {
    pub(super) what: String,
    pub(super) why: String,
}

/// One kind of data.
#[derive(Debug, Serialize)]
pub(super) struct Set {
    pub(super) data: String,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// What this machine can do with that data, in the same rounds.
    pub(super) limits: Vec<LimitOf>,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct LimitOf {
    /// The step that it is the limit of.
    pub(super) step: &'static str,
    pub(super) what: &'static str,
    pub(super) seconds: Spread,
}

#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Logical size, for GB/s.
    pub(super) bytes: u64,
    /// Ours first.
    pub(super) who: Vec<Who>,
}

#[derive(Debug, Serialize)]
pub(super) struct Who {
    pub(super) name: &'static str,
    /// The middle of each value by itself.
    pub(super) median: Cost,
    pub(super) seconds: Spread,
    /// Theirs divided by ours, round by round; null for ourselves.
    pub(super) faster: Option<Spread>,
    pub(super) fewer_bytes: Option<Spread>,
    /// Of the machine's limit for this step, in the same rounds.
    pub(super) of_limit: Option<Spread>,
    pub(super) rounds: Vec<Cost>,
}

/// What one step took.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// How many of the seconds the disk still took when a restore of somebody who does not wait for it had ended.
    pub(super) disk: Option<f64>,
    /// Processor seconds, of all processes.
    pub(super) cpu: f64,
    /// Bytes that went to the store: ours by count, a peer's by what its folder grew.
    pub(super) uploaded: Option<u64>,
    /// What lies in the store afterwards.
    pub(super) stored: Option<u64>,
    /// Object requests: puts and gets.
    pub(super) requests: Option<u64>,
    /// Bytes at the peak, of the largest process.
    pub(super) memory: Option<u64>,
    pub(super) agent_memory: Option<u64>,
    pub(super) coordinator_memory: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// None of nothing.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Self { median, least, most })
    }
}

impl Cost {
    /// The middle of each value by itself.
    fn median(of: &[Cost]) -> Cost {
        let middle = |value: fn(&Cost) -> f64| Spread::of(of.iter().map(value)).map_or(0.0, |it| it.median);
        let count = |value: fn(&Cost) -> Option<u64>| {
            let mut values: Vec<u64> = of.iter().filter_map(value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        Cost {
            seconds: middle(|cost| cost.seconds),
            disk: Spread::of(of.iter().filter_map(|cost| cost.disk)).map(|it| it.median),
            cpu: middle(|cost| cost.cpu),
            uploaded: count(|cost| cost.uploaded),
            stored: count(|cost| cost.stored),
            requests: count(|cost| cost.requests),
            memory: count(|cost| cost.memory),
            agent_memory: count(|cost| cost.agent_memory),
            coordinator_memory: count(|cost| cost.coordinator_memory),
        }
    }
}

impl Step {
    /// `who` has the costs of each round in order, ours first; a peer that failed has fewer and is left out.
    pub(super) fn new(
        name: &'static str,
        bytes: u64,
        who: Vec<(&'static str, Vec<Cost>)>,
        limit: &[f64],
    ) -> Self {
        let ours = who.first().map(|(_, costs)| costs.clone()).unwrap_or_default();
        let whole = who.into_iter().filter(|(_, costs)| !costs.is_empty() && costs.len() == ours.len());
        let one = |(number, (name, rounds)): (usize, (&'static str, Vec<Cost>))| {
            let pairs = || ours.iter().zip(&rounds).filter(|_| number > 0);
            let bytes = pairs().filter_map(|(ours, theirs)| match (ours.uploaded, theirs.uploaded) {
                (Some(ours), Some(theirs)) if ours > 0 => Some(theirs as f64 / ours as f64),
                _ => None,
            });
            let of_limit = limit.iter().zip(&rounds).map(|(limit, cost)| limit / cost.seconds.max(1e-9));
            Who {
                name,
                median: Cost::median(&rounds),
                seconds: Spread::of(rounds.iter().map(|cost| cost.seconds)).unwrap_or(Spread::NOTHING),
                faster: Spread::of(pairs().map(|(ours, theirs)| theirs.seconds / ours.seconds.max(1e-9))),
                fewer_bytes: Spread::of(bytes),
                of_limit: Spread::of(of_limit),
                rounds,
            }
        };
        Self { name, bytes, who: whole.enumerate().map(one).collect() }
    }
}

impl Spread {
    const NOTHING: Self = Self { median: 0.0, least: 0.0, most: 0.0 };
}

impl Report {
    /// The most that an agent took in any round.
    pub(super) fn with_memory(mut self) -> Self {
        let costs = self.sets.iter().flat_map(|set| &set.steps).flat_map(|step| &step.who);
        let peaks = costs.flat_map(|who| &who.rounds).filter_map(|cost| cost.agent_memory);
        self.agent_memory = peaks.max().unwrap_or_default();
        self.agent_memory_bound = AGENT_MEMORY;
        self
    }
}

pub(super) fn show(report: &Report) -> String {
    let mut text = format!(
        "{} cores, medians of {} round(s), store: {}, load {:.1} before and {:.1} after\n",
        report.cores, report.rounds, report.store, report.load[0], report.load[1]
    );
    for peer in &report.peers {
        text += &format!("beside {}: {}\n", peer.name, peer.version);
    }
    for skipped in &report.skipped {
        text += &format!("not measured: {}: {}\n", skipped.what, skipped.why);
    }
    for set in &report.sets {
        text += &show_set(set);
    }
    let held = if report.agent_memory <= report.agent_memory_bound { "within" } else { "ABOVE" };
    text + &format!(
        "\nmost memory of an agent: {}, {held} its bound of {}\n",
        human::size(report.agent_memory),
        human::size(report.agent_memory_bound)
    )
}

fn show_set(set: &Set) -> String {
    let header = [
        "step",
        "who",
        "seconds",
        "least",
        "most",
        "disk",
        "GB/s",
        "of limit",
        "cpu s",
        "uploaded",
        "stored",
        "requests",
        "memory",
        "faster",
        "fewer bytes",
    ];
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), human::size);
    let times = |spread: Option<Spread>| match spread {
        Some(Spread { median, least, most }) => format!("{median:.2}x ({least:.2} to {most:.2})"),
        None => "-".into(),
    };
    let mut rows = Vec::new();
    for step in &set.steps {
        for who in &step.who {
            let Who { median, seconds, .. } = who;
            rows.push(vec![
                step.name.to_owned(),
                who.name.to_owned(),
                format!("{:.2}", seconds.median),
                format!("{:.2}", seconds.least),
                format!("{:.2}", seconds.most),
                median.disk.map_or_else(|| "-".into(), |disk| format!("{disk:.2}")),
                format!("{:.2}", step.bytes as f64 / 1e9 / seconds.median.max(1e-9)),
                who.of_limit.map_or_else(|| "-".into(), |of| format!("{:.0} %", 100.0 * of.median)),
                format!("{:.1}", median.cpu),
                size(median.uploaded),
                size(median.stored),
                median.requests.map_or_else(|| "-".into(), human::count),
                size(median.memory),
                times(who.faster),
                times(who.fewer_bytes),
            ]);
        }
    }
    let right: Vec<usize> = (2..header.len()).collect();
    let mut text =
        format!("\n{}: {} in {} files\n", set.data, human::size(set.bytes), human::count(set.files));
    for limit in &set.limits {
        let Spread { median, least, most } = limit.seconds;
        text +=
            &format!("limit of {}: {median:.2} s ({least:.2} to {most:.2}): {}\n", limit.step, limit.what);
    }
    text + &table(&header, &right, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(seconds: f64, uploaded: u64) -> Cost {
        let (uploaded, agent_memory) = (Some(uploaded), Some(100 << 20));
        Cost { seconds, uploaded, agent_memory, ..Cost::default() }
    }

    fn step() -> Step {
        let ours = vec![cost(1.0, 10), cost(2.0, 10), cost(1.0, 20)];
        let theirs = vec![cost(2.0, 10), cost(2.0, 30), cost(5.0, 20)];
        // One that failed in the second round.
        let failed = vec![cost(0.1, 1)];
        Step::new("cold", 1 << 30, vec![(OURS, ours), ("restic", theirs), ("borg", failed)], &[0.5, 0.5, 0.9])
    }

    #[test]
    fn ratios_are_of_the_same_round_and_who_failed_is_left_out() {
        let step = step();
        assert_eq!(step.who.iter().map(|who| who.name).collect::<Vec<_>>(), [OURS, "restic"]);
        assert_eq!(step.who[0].faster, None);
        assert_eq!(step.who[0].of_limit.unwrap(), Spread { median: 0.5, least: 0.25, most: 0.9 });
        assert_eq!(step.who[1].faster.unwrap(), Spread { median: 2.0, least: 1.0, most: 5.0 });
        assert_eq!(step.who[1].fewer_bytes.unwrap(), Spread { median: 1.0, least: 1.0, most: 3.0 });
    }

    #[test]
    fn the_table_says_what_is_missing_and_whether_the_memory_was_held() {
        let limits = Vec::new();
        let set = Set { data: "made".into(), files: 1, bytes: 1, limits, steps: vec![step()] };
        let report = Report {
            version: "0",
            cores: 2,
            rounds: 3,
            store: "local folder".into(),
            load: [0.0; 2],
            peers: Vec::new(),
            skipped: vec![Skipped { what: "kopia".into(), why: "it is not installed".into() }],
            agent_memory_bound: 0,
            agent_memory: 0,
            sets: vec![set],
        };
        let mut report = report.with_memory();
        assert_eq!(report.agent_memory, 100 << 20);
        let shown = show(&report);
        for part in ["not measured: kopia: it is not installed", "2.00x (1.00 to 5.00)", "within"] {
            assert!(shown.contains(part), "{shown}");
        }
        report.agent_memory = 1 << 40;
        assert!(show(&report).contains("ABOVE"));
    }
}
