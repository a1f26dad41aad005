//! What went wrong without stopping the work. The first are kept, all are counted.
use palinurus_proto::v1;

/// Warnings kept of one task; more are only counted, so that a hostile tree cannot fill the memory.
pub const KEPT: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Relative to the data directory, as on disk; empty when it is about no one file.
    pub path: Vec<u8>,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    kept: Vec<Warning>,
    count: u64,
}

impl Warnings {
    pub fn push(&mut self, path: &[u8], message: impl Into<String>) {
        self.count += 1;
        if self.kept.len() < KEPT {
            self.kept.push(Warning { path: path.to_vec(), message: message.into() });
        }
    }

    /// Puts `other` behind these.
    pub fn append(&mut self, other: Warnings) {
        let room = KEPT.saturating_sub(self.kept.len());
        self.count += other.count;
        self.kept.extend(other.kept.into_iter().take(room));
    }

    /// Counts warnings whose texts are not at hand.
    pub(crate) fn count_more(&mut self, more: u64) {
        self.count += more;
    }

    pub(crate) fn from_parts(kept: Vec<Warning>, count: u64) -> Self {
        Self { count: count.max(kept.len() as u64), kept }
    }

    pub fn kept(&self) -> &[Warning] {
        &self.kept
    }

    /// All there were, kept or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first `limit` of them for a task's result.
    pub fn to_wire(&self, node: &str, limit: usize) -> Vec<v1::Warning> {
        let wire = |warning: &Warning| v1::Warning {
            node: node.to_owned(),
            path: warning.path.clone().into(),
            message: warning.message.clone(),
        };
        self.kept.iter().take(limit).map(wire).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_and_counts_all() {
        let mut warnings = Warnings::default();
        (0..KEPT + 5).for_each(|n| warnings.push(b"a", n.to_string()));
        assert_eq!((warnings.kept().len(), warnings.count()), (KEPT, KEPT as u64 + 5));
        let mut more = Warnings::default();
        more.push(b"", "first");
        more.append(warnings);
        assert_eq!((more.kept().len(), more.count()), (KEPT, KEPT as u64 + 6));
        assert_eq!(more.kept()[0].message, "first");
        assert_eq!(more.to_wire("n1", 2).len(), 2);
    }
}
