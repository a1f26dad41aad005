//! Whose fault an error is: a file's fault ends that file and is reported, the run's fault ends the run.
use std::io;

use palinurus_repository::{Error, ErrorKind};
use rustix::io::Errno;

#[derive(Debug)]
pub(super) enum Fault {
    File(Error),
    Run(Error),
}

impl Fault {
    /// `doing` as in "write", `path` as in the manifest.
    pub(super) fn io(doing: &str, path: &[u8], error: io::Error) -> Self {
        let ends_the_run = matches!(
            Errno::from_io_error(&error),
            Some(
                Errno::NOSPC
                    | Errno::DQUOT
                    | Errno::IO
                    | Errno::ROFS
                    | Errno::NODEV
                    | Errno::NXIO
                    | Errno::MFILE
                    | Errno::NFILE
                    | Errno::NOMEM
                    | Errno::STALE
                    | Errno::NOTCONN
            )
        );
        let too_big = Errno::from_io_error(&error) == Some(Errno::FBIG);
        let wrapped = Error::io(format!("{doing} {}", shown(path)), error);
        match ends_the_run {
            true if wrapped.hint().is_none() => {
                Self::Run(wrapped.with_hint("mend it, then run the same restore again: it is continued"))
            }
            true => Self::Run(wrapped),
            false if too_big => {
                Self::File(wrapped.with_hint("the target's file system holds no files so large"))
            }
            false => Self::File(wrapped),
        }
    }

    /// What cannot be trusted or is not there ends the files that need it; anything else may be mended.
    pub(super) fn reading(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotFound => Self::File(error),
            _ => Self::Run(error),
        }
    }
}

/// A path for people. Control bytes do not reach their terminals.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_ends_the_run_and_a_huge_file_only_itself() {
        let fault = |errno: Errno| Fault::io("write", b"a\x1bb", errno.into());
        let Fault::Run(full) = fault(Errno::NOSPC) else { panic!() };
        assert!(full.hint().unwrap().contains("free space"));
        assert_eq!(full.what(), "write a\u{fffd}b");
        assert!(matches!(fault(Errno::IO), Fault::Run(e) if e.hint().is_some()));
        assert!(matches!(fault(Errno::FBIG), Fault::File(e) if e.hint().is_some()));
        assert!(matches!(fault(Errno::LOOP), Fault::File(_)));
        assert!(matches!(Fault::reading(Error::not_found("x")), Fault::File(_)));
        assert!(matches!(Fault::reading(Error::unavailable("x")), Fault::Run(_)));
    }
}
