//! Errors on the wire. A kind becomes a gRPC code here and nowhere else; kind and hint travel beside the message,
//! so that what arrives is what was sent.
use palinurus_repository::{Error, ErrorKind};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::v1;

const KIND: &str = "palinurus-kind";
const HINT: &str = "palinurus-hint-bin";
/// Of a refusal by a coordinator that does not lead: where the leader is reached, empty when nobody leads.
pub const LEADER: &str = "palinurus-leader";

pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Fenced => Code::FailedPrecondition,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Internal => Code::Internal,
    }
}

/// What a status of somebody else's making means: gRPC's own, a proxy's.
fn kind(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists | Code::Aborted => ErrorKind::Conflict,
        Code::FailedPrecondition => ErrorKind::Fenced,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::Ok => ErrorKind::Internal,
        // A broken connection shows as any of these, `Internal` too; the call may have been carried out.
        Code::Internal
        | Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::ResourceExhausted => ErrorKind::Unavailable,
    }
}

pub fn to_status(error: &Error) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(KIND, MetadataValue::from_static(error.kind().name()));
    if let Some(hint) = error.hint() {
        metadata.insert_bin(HINT, MetadataValue::from_bytes(hint.as_bytes()));
    }
    Status::with_metadata(code(error.kind()), error.chain(), metadata)
}

/// Sent by one of ours, who knows what became of the call; anything else comes from the transport.
pub fn is_answer(status: &Status) -> bool {
    status.metadata().contains_key(KIND)
}

pub fn from_status(status: Status) -> Error {
    let sent =
        status.metadata().get(KIND).and_then(|value| value.to_str().ok()).and_then(ErrorKind::from_name);
    let Some(sent) = sent else {
        let what = match status.message() {
            "" => format!("the call ended with {:?}", status.code()),
            message => message.to_owned(),
        };
        let error = Error::new(kind(status.code()), what);
        // Of a transport error only the causes say what it was.
        return match std::error::Error::source(&status) {
            Some(cause) => error.with_source(causes(cause)),
            None => error,
        };
    };
    let error = Error::new(sent, status.message());
    let hint = status.metadata().get_bin(HINT).and_then(|value| value.to_bytes().ok());
    match hint {
        Some(hint) => error.with_hint(String::from_utf8_lossy(&hint)),
        None => error,
    }
}

fn causes(first: &(dyn std::error::Error + 'static)) -> String {
    let mut line = first.to_string();
    let mut next = first.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}

pub fn failure(error: &Error) -> v1::Failure {
    v1::Failure {
        kind: error.kind().name().to_owned(),
        message: error.chain(),
        hint: error.hint().unwrap_or_default().to_owned(),
        node: String::new(),
    }
}

/// `cancelled`, which is an outcome and no error, and kinds of a newer peer become `Conflict` and `Internal`.
pub fn from_failure(failure: &v1::Failure) -> Error {
    let kind = match failure.kind.as_str() {
        "cancelled" => ErrorKind::Conflict,
        name => ErrorKind::from_name(name).unwrap_or(ErrorKind::Internal),
    };
    let what = match failure.node.as_str() {
        "" => failure.message.clone(),
        node => format!("node {node}: {}", failure.message),
    };
    let error = Error::new(kind, what);
    if failure.hint.is_empty() { error } else { error.with_hint(failure.hint.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_as_it_was_sent() {
        for kind in ErrorKind::ALL {
            let sent = Error::new(kind, "no such node \"n4\"").with_source("gone").with_hint("nodes: n1, ü");
            let status = to_status(&sent);
            assert_eq!(status.code(), code(kind));
            let arrived = from_status(status);
            assert_eq!(arrived.kind(), kind);
            assert_eq!(arrived.what(), "no such node \"n4\": gone");
            assert_eq!(arrived.hint(), Some("nodes: n1, ü"));

            let mut told = failure(&sent);
            told.node = "n2".to_owned();
            let arrived = from_failure(&told);
            assert_eq!((arrived.kind(), arrived.hint()), (kind, sent.hint()));
            assert_eq!(arrived.what(), "node n2: no such node \"n4\": gone");
        }
    }

    #[test]
    fn a_status_of_others_has_a_kind_too() {
        let unknown = from_status(Status::unknown("transport error"));
        assert_eq!((unknown.kind(), unknown.what()), (ErrorKind::Unavailable, "transport error"));
        assert_eq!(
            from_status(Status::new(Code::Unimplemented, "")).what(),
            "the call ended with Unimplemented"
        );
        assert_eq!(kind(code(ErrorKind::Fenced)), ErrorKind::Fenced);
        // What tonic says of a server that was killed.
        assert_eq!(
            from_status(Status::internal("h2 protocol error: http2 error")).kind(),
            ErrorKind::Unavailable
        );
    }
}
