//! Which entries are wanted: all, or those that a pattern names, with all that is below them.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use palinurus_repository::{Error, Result};

#[derive(Debug)]
pub(super) struct Selection(Option<GlobSet>);

impl Selection {
    /// No pattern selects all. `*` does not match `/`, `**` does.
    pub(super) fn new(include: &[String]) -> Result<Self> {
        if include.is_empty() {
            return Ok(Self(None));
        }
        let mut set = GlobSetBuilder::new();
        for pattern in include {
            let path = pattern.trim_start_matches("./").trim_end_matches('/');
            let glob = GlobBuilder::new(path).literal_separator(true).build();
            set.add(glob.map_err(|e| {
                Error::invalid(format!("include pattern {pattern:?}")).with_source(e).with_hint(
                    "use a path below the data directory; * ? [..] {a,b} and ** have their usual meaning",
                )
            })?);
        }
        Ok(Self(Some(set.build().map_err(|e| Error::invalid("include patterns").with_source(e))?)))
    }

    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether `path` itself is named; what is below a named directory is wanted too.
    pub(super) fn names(&self, path: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|set| set.is_match(Path::new(OsStr::from_bytes(path))))
    }

    /// Whether `path` or a directory on its way is named.
    pub(super) fn wants(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        slashes.chain([path.len()]).any(|end| self.names(&path[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_directory_brings_what_is_below() {
        let selection = Selection::new(&["a/b/".into(), "*.conf".into()]).unwrap();
        for wanted in [&b"a/b"[..], b"a/b/c/d", b"x.conf", b"x.conf/y"] {
            assert!(selection.wants(wanted), "{wanted:?}");
        }
        for other in [&b"a"[..], b"a/bc", b"b", b"a/x.conf"] {
            assert!(!selection.wants(other), "{other:?}");
        }
        assert!(Selection::new(&[]).unwrap().wants(b"\xff"));
        assert!(Selection::new(&["[".into()]).is_err());
    }
}
