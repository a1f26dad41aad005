//! What a store's refusal means: who must act, and how. Nothing that signs a request is ever in a message.
use std::fmt;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::error::{Error, ErrorKind};
use crate::storage::remote::quoted;

/// One request, as messages name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// The permission that it needs.
    pub(super) action: &'static str,
    pub(super) key: &'a str,
    pub(super) store: &'a str,
    pub(super) bucket: &'a str,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.action, self.key, self.store)
    }
}

/// What the server answered instead of yes; None when no answer came.
pub(super) fn answer<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<(u16, &str)> {
    let status = error.raw_response()?.status().as_u16();
    Some((status, error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default()))
}

/// Credentials that a fresh look at their source may mend.
pub(super) fn is_stale(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "TokenRefreshRequired"
            | "InvalidToken"
            | "InvalidAccessKeyId"
    )
}

pub(super) fn from_sdk<E>(call: &Call<'_>, error: SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Some((status, code)) = answer(&error) else { return unanswered(call, &error) };
    let said = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default();
    let named = if code.is_empty() { format!("status {status}") } else { quoted(code) };
    let what = match said {
        "" => format!("{call}: {named}"),
        said => format!("{call}: {named}: {}", quoted(said)),
    };
    let (kind, hint) = meaning(call, status, code);
    let right = error.raw_response().and_then(|raw| raw.headers().get("x-amz-bucket-region"));
    let hint = match (hint, right.map(quoted).or_else(|| region_in(code, said))) {
        (Some(_), Some(region)) if is_elsewhere(status, code) => {
            Some(format!("the bucket is in {region}: write region={region} in the URL"))
        }
        (hint, _) => hint,
    };
    let error = Error::new(kind, what);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// One object's refusal in the answer to a DELETE of many.
pub(super) fn of_one(call: &Call<'_>, code: Option<&str>, said: Option<&str>) -> Error {
    let code = code.unwrap_or("refused");
    let status = match code {
        "AccessDenied" => 403,
        "InternalError" | "SlowDown" | "ServiceUnavailable" => 503,
        _ => 400,
    };
    let (kind, hint) = meaning(call, status, code);
    let error = Error::new(kind, format!("{call}: {}: {}", quoted(code), quoted(said.unwrap_or_default())));
    match hint {
        Some(hint) if code == "AccessDenied" => {
            error.with_hint(format!("{hint}; an object under retention cannot be deleted before its time"))
        }
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn is_elsewhere(status: u16, code: &str) -> bool {
    matches!(
        code,
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"
    ) || status == 301
}

/// "... the region 'a' is wrong; expecting 'b'".
fn region_in(code: &str, said: &str) -> Option<String> {
    let after = said.split_once("expecting '").filter(|_| code == "AuthorizationHeaderMalformed")?.1;
    after.split_once('\'').map(|(region, _)| quoted(region))
}

fn meaning(call: &Call<'_>, status: u16, code: &str) -> (ErrorKind, Option<String>) {
    use ErrorKind::{Denied, Invalid, NotFound, Unavailable};
    let (kind, hint) = match code {
        "NoSuchBucket" | "InvalidBucketName" => {
            (Invalid, format!("make the bucket {}, or mend its name in the URL", call.bucket))
        }
        _ if is_elsewhere(status, code) => {
            (Invalid, "write the bucket's region into the URL: region=...".to_owned())
        }
        "RequestTimeTooSkewed" => {
            (Invalid, "this machine's clock or the store's is wrong: set it (NTP), then try again".to_owned())
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => (
            Denied,
            "the credentials have expired: renew them; files are read again by themselves".to_owned(),
        ),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidClientTokenId" => (
            Denied,
            "the store does not know these credentials: check key id, secret and endpoint".to_owned(),
        ),
        "InvalidObjectState" => {
            (Denied, "the object is archived: bring it back to a class that can be read".to_owned())
        }
        "NotImplemented" | "MethodNotAllowed" => {
            (Invalid, "the store cannot do this: see docs/operations/stores.md for what is needed".to_owned())
        }
        "InvalidRequest" => (
            Invalid,
            "a bucket with Object Lock wants checksum=crc32c in the URL; otherwise the store says why"
                .to_owned(),
        ),
        "RequestTimeout"
        | "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "ConditionalRequestConflict"
        | "OperationAborted" => return (Unavailable, None),
        _ => match status {
            401 | 403 => (Denied, allow(call)),
            404 => return (NotFound, None),
            400..=499 if !matches!(status, 408 | 409 | 425 | 429) => return (Invalid, None),
            _ => return (Unavailable, None),
        },
    };
    (kind, Some(hint))
}

fn allow(call: &Call<'_>) -> String {
    let also = match call.action {
        "s3:GetObject" => ", and s3:ListBucket, without which absent objects look forbidden",
        _ => "",
    };
    format!("allow {} on bucket {} to these credentials{also}", call.action, call.bucket)
}

/// No answer, or none that can be read: the outcome is unknown.
fn unanswered<E>(call: &Call<'_>, error: &SdkError<E>) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let why = DisplayErrorContext(error).to_string().to_ascii_lowercase();
    let what = |said: &str| format!("{call}: {said}");
    let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if has(&["certificate", "unknownissuer"]) {
        return Error::invalid(what("the store's certificate is not trusted"))
            .with_hint("name the CA that signed it with ca=/path, and the host as the certificate does")
            .with_source(Cause(quoted(&why)));
    }
    if has(&["invalidcontenttype", "corrupt message"]) {
        return Error::invalid(what("the endpoint does not speak TLS")).with_hint("is it plain http?");
    }
    if has(&["credentials", "identity"]) {
        return Error::denied(what("there are no credentials for the store"))
            .with_hint(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a file with credentials=/path in the URL, or \
                 give the machine a role",
            )
            .with_source(Cause(quoted(&why)));
    }
    let said = match error {
        SdkError::TimeoutError(_) => "no answer in time",
        SdkError::DispatchFailure(failure) if failure.is_timeout() => "no answer in time",
        SdkError::DispatchFailure(_) if has(&["dns", "lookup"]) => "the endpoint's name is not known",
        SdkError::DispatchFailure(_) if has(&["refused"]) => "the endpoint refuses connections",
        SdkError::DispatchFailure(_) => "the connection broke",
        _ => "the answer cannot be read",
    };
    Error::unavailable(what(said))
        .with_hint("check the endpoint in the URL, and the network to it")
        .with_source(Cause(quoted(&why)))
}

/// A client's error, shortened to what fits a line.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'_> = Call { action: "s3:PutObject", key: "repo", store: "s3://b/p", bucket: "b" };

    #[test]
    fn each_refusal_says_who_must_act() {
        for (status, code, kind, hint) in [
            (404, "NoSuchBucket", ErrorKind::Invalid, "make the bucket b"),
            (403, "AccessDenied", ErrorKind::Denied, "allow s3:PutObject"),
            (403, "", ErrorKind::Denied, "allow s3:PutObject"),
            (403, "RequestTimeTooSkewed", ErrorKind::Invalid, "clock"),
            (400, "ExpiredToken", ErrorKind::Denied, "expired"),
            (403, "InvalidAccessKeyId", ErrorKind::Denied, "does not know"),
            (301, "PermanentRedirect", ErrorKind::Invalid, "region"),
            (400, "InvalidRequest", ErrorKind::Invalid, "checksum"),
            (404, "NoSuchKey", ErrorKind::NotFound, ""),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable, ""),
            (503, "SlowDown", ErrorKind::Unavailable, ""),
            (500, "", ErrorKind::Unavailable, ""),
            (400, "RequestTimeout", ErrorKind::Unavailable, ""),
            (400, "EntityTooLarge", ErrorKind::Invalid, ""),
        ] {
            let (found, said) = meaning(&CALL, status, code);
            assert_eq!(found, kind, "{code}");
            assert!(said.unwrap_or_default().contains(hint), "{code}");
        }
    }

    #[test]
    fn the_right_region_is_read_from_the_answer() {
        let said = "The authorization header is malformed; the region 'a' is wrong; expecting 'eu-west-1'";
        assert_eq!(region_in("AuthorizationHeaderMalformed", said).as_deref(), Some("eu-west-1"));
        assert_eq!(region_in("AccessDenied", said), None);
    }
}
