//! What etcd says, as errors of ours: who must act, and how.
use std::error::Error as StdError;

use etcd_client::Error as Said;
use palinurus_repository::{Error, ErrorKind};
use tonic::{Code, Status};

const NO_QUORUM: &str = "etcd has no quorum: more than half of its members must run and reach each other";

/// Why a call did not end well.
#[derive(Debug)]
pub(super) enum Failed {
    /// No answer, or none that says whether it was carried out: it may have been, or may yet be.
    Unknown(Error),
    /// The revision asked for is history no more.
    Compacted,
    /// The answer is larger than is taken in.
    TooLong(Error),
    /// The token is of an older state of users and roles: a new one mends it.
    OldToken(Error),
    /// Not carried out, and asking again would not help.
    Refused(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unknown(e) | Failed::TooLong(e) | Failed::OldToken(e) | Failed::Refused(e) => e,
            Failed::Compacted => Error::unavailable("etcd has compacted what was being read")
                .with_hint("compact etcd less often than every few seconds"),
        }
    }
}

pub(super) fn judge(what: &str, endpoint: &str, said: Said) -> Failed {
    let status = match said {
        Said::GRpcStatus(status) => status,
        // Its only one is that the lease is not there.
        Said::LeaseKeepAliveError(_) => return Failed::Refused(Error::fenced("etcd has ended the lease")),
        Said::InvalidArgs(_) | Said::InvalidUri(_) | Said::TransportError(_) => {
            let settings = Error::invalid(format!("cannot use the etcd endpoint {endpoint}"));
            return Failed::Refused(settings.with_source(chain(&said)));
        }
        other => return Failed::Unknown(away(what, endpoint, &chain(&other))),
    };
    judge_status(what, endpoint, &status)
}

fn judge_status(what: &str, endpoint: &str, status: &Status) -> Failed {
    let said = status.message();
    let error = |kind, hint: &str| {
        Error::new(kind, what).with_source(format!("etcd at {endpoint}: {}", reason(status))).with_hint(hint)
    };
    let refused = |kind, hint: &str| Failed::Refused(error(kind, hint));
    match status.code() {
        Code::OutOfRange if said.contains("compacted") => Failed::Compacted,
        Code::OutOfRange if said.contains("decoded message length") => {
            Failed::TooLong(error(ErrorKind::Unavailable, "a record in etcd is too large to be read"))
        }
        Code::InvalidArgument if said.contains("auth store is old") => {
            Failed::OldToken(error(ErrorKind::Unavailable, "etcd's users are being changed: try again"))
        }
        Code::InvalidArgument | Code::ResourceExhausted | Code::OutOfRange if said.contains("too large") => {
            refused(ErrorKind::Invalid, "etcd takes 1.5 MiB a request; --max-request-bytes of etcd raises it")
        }
        Code::ResourceExhausted if said.contains("larger than max") => {
            refused(ErrorKind::Invalid, "etcd takes 1.5 MiB a request; --max-request-bytes of etcd raises it")
        }
        Code::ResourceExhausted if said.contains("space exceeded") => refused(
            ErrorKind::Unavailable,
            "etcd is full: run `etcdctl compact`, `etcdctl defrag` and then `etcdctl alarm disarm`, or raise its \
             --quota-backend-bytes",
        ),
        Code::Unauthenticated | Code::InvalidArgument
            if said.contains("invalid user ID or password")
                || said.contains("user name is empty")
                || said.contains("auth token") =>
        {
            refused(ErrorKind::Denied, "mend `user` and `password_file` in [etcd]")
        }
        Code::FailedPrecondition if said.contains("authentication is not enabled") => refused(
            ErrorKind::Invalid,
            "etcd has no users: run `etcdctl auth enable`, or take `user` out of [etcd]",
        ),
        Code::PermissionDenied => refused(
            ErrorKind::Denied,
            "give the user's role readwrite on the prefix: \
             etcdctl role grant-permission ROLE --prefix=true readwrite PREFIX",
        ),
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal => {
            Failed::Unknown(away(what, endpoint, &reason(status)))
        }
        _ => refused(ErrorKind::Internal, "see etcd's log"),
    }
}

/// Of several members' answers: a member that runs and has no leader says more than others that are not there.
pub(super) fn more_telling(before: Option<Error>, now: Error) -> Error {
    before.filter(|before| before.hint() == Some(NO_QUORUM)).unwrap_or(now)
}

/// No answer came in time.
pub(super) fn late(what: &str, endpoint: &str, within: std::time::Duration) -> Failed {
    Failed::Unknown(away(what, endpoint, &format!("no answer within {}", humantime::format_duration(within))))
}

fn away(what: &str, endpoint: &str, reason: &str) -> Error {
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let hung_up = has(&["connection closed", "broken pipe", "reset", "h2 protocol error", "handshake eof"]);
    let hint = if has(&["no leader", "request timed out"]) {
        NO_QUORUM
    } else if has(&["certificate", "fatal alert"]) {
        "etcd's certificate and `ca` in [etcd] do not belong together, or it wants `certificate` and `key`"
    } else if endpoint.starts_with("https://") && (hung_up || has(&["InvalidContentType"])) {
        "if etcd ends every connection, it may speak no TLS: then its endpoint begins with http://; or it wants \
         `certificate` and `key` in [etcd]"
    } else if hung_up {
        "if etcd ends every connection, it may speak TLS: then its endpoint begins with https://"
    } else {
        "is etcd running, and are `endpoints` in [etcd] right? `etcdctl endpoint status` shows its members"
    };
    Error::unavailable(what).with_source(format!("etcd at {endpoint}: {reason}")).with_hint(hint)
}

/// A transport's status says what happened only in its causes.
fn reason(status: &Status) -> String {
    let mut line = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    append_causes(&mut line, status.source());
    line
}

fn chain(error: &dyn StdError) -> String {
    let mut line = error.to_string();
    append_causes(&mut line, error.source());
    line
}

fn append_causes(line: &mut String, mut cause: Option<&(dyn StdError + 'static)>) {
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
}
