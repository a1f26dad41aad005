//! How fast objects went, by whom: a table, or with `--json` this object.
use serde::Serialize;

use crate::human;
use crate::output::table;

#[derive(Debug, Serialize)]
pub(super) struct Rates {
    pub(super) store: String,
    pub(super) objects: usize,
    pub(super) object_bytes: u64,
    pub(super) at_once: usize,
    pub(super) rounds: usize,
    pub(super) cores: usize,
    pub(super) who: Vec<Who>,
    /// Our puts and gets as shares of the fastest other's; null when none is installed.
    pub(super) put_share: Option<f64>,
    pub(super) get_share: Option<f64>,
    pub(super) backup: Option<Backup>,
}

#[derive(Debug, Serialize)]
pub(super) struct Who {
    pub(super) name: String,
    pub(super) put: Moved,
    pub(super) get: Moved,
}

/// Of all the objects; seconds, medians over the rounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Moved {
    pub(super) seconds: f64,
    pub(super) cpu: f64,
}

/// A cold backup of made data to the same store, by a coordinator and an agent of their own.
#[derive(Debug, Serialize)]
pub(super) struct Backup {
    pub(super) seconds: f64,
    pub(super) cpu: f64,
    pub(super) bytes: u64,
    pub(super) uploaded: u64,
}

impl Moved {
    pub(super) fn median(of: &[Moved]) -> Self {
        let middle = |value: fn(&Moved) -> f64| {
            let mut values: Vec<f64> = of.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Self { seconds: middle(|moved| moved.seconds), cpu: middle(|moved| moved.cpu) }
    }
}

/// The first one's rate, as a share of the best of the others.
pub(super) fn share(who: &[Who], of: impl Fn(&Who) -> Moved) -> Option<f64> {
    let (ours, others) = who.split_first()?;
    let best = others.iter().map(|other| of(other).seconds).min_by(f64::total_cmp)?;
    Some(best / of(ours).seconds.max(1e-9))
}

pub(super) fn show(rates: &Rates) -> String {
    let gigabytes = rates.objects as f64 * rates.object_bytes as f64 / 1e9;
    let speed = |moved: Moved| format!("{:.0}", 1000.0 * gigabytes / moved.seconds.max(1e-9));
    let cost = |moved: Moved| format!("{:.2}", moved.cpu / gigabytes);
    let rows: Vec<Vec<String>> = rates
        .who
        .iter()
        .map(|who| vec![who.name.clone(), speed(who.put), cost(who.put), speed(who.get), cost(who.get)])
        .collect();
    let mut text = format!(
        "{}: {} objects of {}, {} at once, medians of {} round(s), {} cores\n\n",
        rates.store,
        rates.objects,
        human::size(rates.object_bytes),
        rates.at_once,
        rates.rounds,
        rates.cores,
    );
    text += &table(&["", "put MB/s", "cpu s/GB", "get MB/s", "cpu s/GB"], &[1, 2, 3, 4], &rows);
    if let (Some(put), Some(get)) = (rates.put_share, rates.get_share) {
        text +=
            &format!("\nof the faster of the others: put {:.0} %, get {:.0} %\n", 100.0 * put, 100.0 * get);
    }
    if let Some(backup) = &rates.backup {
        let (read, sent) = (backup.bytes as f64 / 1e9, backup.uploaded as f64 / 1e9);
        text += &format!(
            "\ncold backup of {}: {:.2} s, {:.0} MB/s read, {} uploaded; cpu s/GB: {:.2} read, {:.2} uploaded\n",
            human::size(backup.bytes),
            backup.seconds,
            1000.0 * read / backup.seconds.max(1e-9),
            human::size(backup.uploaded),
            backup.cpu / read.max(1e-9),
            backup.cpu / sent.max(1e-9),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_best_of_the_others() {
        let who = |name: &str, seconds| {
            let moved = Moved { seconds, cpu: 1.0 };
            Who { name: name.into(), put: moved, get: moved }
        };
        let all = [who("ours", 4.0), who("slow", 8.0), who("fast", 2.0)];
        assert_eq!(share(&all, |who| who.put), Some(0.5));
        assert_eq!(share(&all[..1], |who| who.put), None);
        let moved = [3.0, 1.0, 2.0].map(|seconds| Moved { seconds, cpu: 10.0 - seconds });
        let median = Moved::median(&moved);
        assert_eq!((median.seconds, median.cpu), (2.0, 8.0));
    }
}
