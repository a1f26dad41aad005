//! Which names belong to the backup, and how a file's bytes change, by glob.
//!
//! Globs are relative to the data directory. One without `/` means a name at any depth; one with `/` is the
//! path from the top. `*` and `?` stay within a name, `**` spans directories. What matches a directory holds
//! for everything below it. `exclude` wins over `include`; no `include` at all means everything.
use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use palinurus_repository::page::check_page_size;
use palinurus_repository::{Error, Result};

use crate::source::Class;

#[derive(Debug)]
pub(crate) struct Rules {
    include: Option<GlobSet>,
    exclude: GlobSet,
    /// The first that matches is the class.
    classes: Vec<(GlobSet, Class)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Excluded,
    Included,
    /// Not meant itself; if it is a directory, something below it may be.
    Undecided,
}

impl Rules {
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let include = if include.is_empty() { None } else { Some(globs("include", include)?) };
        Ok(Self { include, exclude: globs("exclude", exclude)?, classes: Vec::new() })
    }

    /// Adds a class behind those that are there: the earlier wins where both match.
    pub(crate) fn class(mut self, name: &str, patterns: &[String], class: Class) -> Result<Self> {
        if let Class::Paged(size) = class {
            check_page_size(size)?;
        }
        if !patterns.is_empty() {
            self.classes.push((globs(name, patterns)?, class));
        }
        Ok(self)
    }

    /// `inside`: a directory above is included.
    pub(crate) fn verdict(&self, path: &[u8], inside: bool) -> Verdict {
        let candidate = Candidate::from_bytes(path);
        if self.exclude.is_match_candidate(&candidate) {
            return Verdict::Excluded;
        }
        match &self.include {
            _ if inside => Verdict::Included,
            Some(include) if !include.is_match_candidate(&candidate) => Verdict::Undecided,
            _ => Verdict::Included,
        }
    }

    pub(crate) fn class_of(&self, path: &[u8]) -> Class {
        if self.classes.is_empty() {
            return Class::Mutable;
        }
        let candidate = Candidate::from_bytes(path);
        let found = self.classes.iter().find(|(globs, _)| globs.is_match_candidate(&candidate));
        found.map_or(Class::Mutable, |(_, class)| *class)
    }

    /// Whether the directory itself is meant, not only some of what it holds.
    pub(crate) fn includes_all(&self) -> bool {
        self.include.is_none()
    }
}

fn globs(list: &str, patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let wrong = || Error::invalid(format!("{list} glob {pattern:?} is not usable"));
        let hint = "globs are relative to the data directory: \"cache/**\", \"*.tmp\", \"wal/segment-?\"";
        let trimmed = pattern.strip_prefix("./").unwrap_or(pattern);
        let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
        let climbs = trimmed.split('/').any(|part| part == ".." || part == "." || part.is_empty());
        if climbs {
            return Err(wrong().with_hint(hint));
        }
        let anchored = if trimmed.contains('/') { trimmed.to_owned() } else { format!("**/{trimmed}") };
        let glob = GlobBuilder::new(&anchored).literal_separator(true).build();
        set.add(glob.map_err(|e| wrong().with_hint(hint).with_source(e))?);
    }
    set.build().map_err(|e| Error::invalid(format!("{list} globs are not usable")).with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn exclude_wins_and_directories_carry() {
        let rules = Rules::new(&strings(&["db", "logs/*.log"]), &strings(&["*.tmp", "db/cache"])).unwrap();
        use Verdict::*;
        for (path, inside, want) in [
            (&b"db"[..], false, Included),
            (b"db/a.tmp", true, Excluded),
            (b"db/cache", true, Excluded),
            (b"x/db/cache", true, Included),
            (b"db/other", true, Included),
            (b"logs", false, Undecided),
            (b"logs/a.log", false, Included),
            (b"logs/deep/a.log", false, Undecided),
            (b"deep/db", false, Included),
            (b"\xff\xfe.tmp", false, Excluded),
            (b"\xff\xfe", false, Undecided),
        ] {
            assert_eq!(rules.verdict(path, inside), want, "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn the_first_class_wins_and_the_rest_is_mutable() {
        let rules = Rules::new(&[], &[])
            .unwrap()
            .class("mutable", &strings(&["data/live.sst"]), Class::Mutable)
            .and_then(|rules| rules.class("paged", &strings(&["base/**"]), Class::Paged(8192)))
            .and_then(|rules| rules.class("immutable", &strings(&["*.sst"]), Class::Immutable))
            .unwrap();
        assert_eq!(rules.class_of(b"data/live.sst"), Class::Mutable);
        assert_eq!(rules.class_of(b"base/1/2.sst"), Class::Paged(8192));
        assert_eq!(rules.class_of(b"deep/er/3.sst"), Class::Immutable);
        assert_eq!(rules.class_of(b"other"), Class::Mutable);
    }

    #[test]
    fn globs_that_can_mean_nothing_are_refused() {
        for bad in ["", "/etc", "../x", "a/../b", "a//b", "[", "{a", "."] {
            assert!(Rules::new(&[], &strings(&[bad])).is_err(), "{bad}");
        }
        for good in ["./a", "a/", "**/x", "a/**", "{a,b}", "[ab]", "ä*"] {
            Rules::new(&[], &strings(&[good])).unwrap();
        }
        let bad_page = Rules::new(&[], &[]).unwrap().class("paged", &strings(&["*"]), Class::Paged(1000));
        assert!(bad_page.is_err());
    }
}
