//! What object_store says, as our errors. Its messages hold whole URLs, which may be signed: their queries are cut off.
use std::error::Error as StdError;
use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::storage::remote::quoted;

/// One request, as messages name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) action: &'static str,
    pub(super) key: &'a str,
    pub(super) store: &'a str,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.action, self.key, self.store)
    }
}

pub(super) fn translated(call: &Call<'_>, error: &object_store::Error) -> Error {
    use object_store::Error as E;
    let why = chain(error);
    let (kind, said, hint) = match error {
        E::NotFound { .. } if why.contains("ContainerNotFound") || why.contains("NoSuchBucket") => (
            ErrorKind::Invalid,
            "the container does not exist",
            Some("make it, or mend its name in the URL".to_owned()),
        ),
        E::NotFound { .. } => (ErrorKind::NotFound, "it does not exist", None),
        E::PermissionDenied { .. } => (
            ErrorKind::Denied,
            "permission denied",
            Some(format!("allow these credentials to {}", call.action)),
        ),
        E::Unauthenticated { .. } => (
            ErrorKind::Denied,
            "the store does not know these credentials",
            Some("check them, the account, and this machine's clock".to_owned()),
        ),
        E::NotSupported { .. } | E::NotImplemented { .. } | E::InvalidPath { .. } => {
            (ErrorKind::Invalid, "the store cannot do this", None)
        }
        _ => generic(&why),
    };
    let error = Error::new(kind, format!("{call}: {said}")).with_source(Cause(quoted(&why)));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The status is only in the text.
fn generic(why: &str) -> (ErrorKind, &'static str, Option<String>) {
    let lower = why.to_ascii_lowercase();
    let status = lower.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    let network = || Some("check the endpoint in the URL, and the network to it".to_owned());
    match status {
        Some(408 | 409 | 425 | 429 | 500 | 502..=599) => {
            (ErrorKind::Unavailable, "the store is not able to now", None)
        }
        Some(400..=499 | 501) => (ErrorKind::Invalid, "the store refuses the request", None),
        Some(_) => (ErrorKind::Unavailable, "the answer cannot be read", None),
        None if lower.contains("certificate") || lower.contains("unknownissuer") => (
            ErrorKind::Invalid,
            "the store's certificate is not trusted",
            Some("name the CA that signed it with ca=/path".to_owned()),
        ),
        None if ["token", "credential", "metadata server", "identity"]
            .iter()
            .any(|word| lower.contains(word)) =>
        {
            (
                ErrorKind::Denied,
                "there are no credentials for the store",
                Some("name a file with credentials=/path in the URL, or give the machine a role".to_owned()),
            )
        }
        None if lower.contains("refused") => {
            (ErrorKind::Unavailable, "the endpoint refuses connections", network())
        }
        None => (ErrorKind::Unavailable, "no answer, or none that can be read", network()),
    }
}

/// A client that cannot be made of these settings.
pub(super) fn unfit(scheme: &str, error: &object_store::Error) -> Error {
    Error::invalid(format!("a client for this {scheme}: URL cannot be made"))
        .with_source(Cause(quoted(&chain(error))))
        .with_hint("docs/operations/stores.md has an example for each store")
}

/// All that was said, once, without the queries of URLs.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut all = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !all.contains(&text) {
            if !all.is_empty() {
                all.push_str(": ");
            }
            all.push_str(&text);
        }
        next = error.source();
    }
    all.split(' ')
        .map(|word| match word.split_once('?') {
            Some((before, _)) if word.contains("://") => before,
            _ => word,
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_urls_lose_their_queries() {
        let source = "Error performing PUT https://a.example.org/c/x?sv=1&sig=hunter2 in 1s - 503".to_owned();
        let error = object_store::Error::Generic { store: "x", source: source.into() };
        let call = Call { action: "write", key: "x", store: "az://c" };
        let shown = format!("{:?}", translated(&call, &error));
        assert!(!shown.contains("hunter2") && shown.contains("a.example.org/c/x"), "{shown}");
    }

    #[test]
    fn the_status_decides() {
        for (status, kind) in [
            (503, ErrorKind::Unavailable),
            (500, ErrorKind::Unavailable),
            (429, ErrorKind::Unavailable),
            (400, ErrorKind::Invalid),
            (501, ErrorKind::Invalid),
        ] {
            let why = format!("Server returned non-2xx status code: {status} Something: body");
            assert_eq!(generic(&why).0, kind, "{status}");
        }
    }
}
