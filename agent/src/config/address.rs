//! Where a coordinator is, as the operator writes it or another coordinator says it: nothing goes to another machine
//! unencrypted.
use std::net::IpAddr;

use palinurus_identity::check_url;
use palinurus_repository::{Error, Result};
use tonic::transport::Uri;

/// `host:port` without a scheme is what a coordinator says of the leader.
pub(crate) fn check(text: &str, encrypted: bool) -> Result<Uri> {
    check_url(text)?;
    let url = match (text.contains("://"), encrypted) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    };
    let scheme = if encrypted { "https" } else { "http" };
    let wrong = || {
        Error::invalid(format!("coordinator {text:?} is not an address"))
            .with_hint(format!("coordinator = [\"{scheme}://host:7410\"]"))
    };
    let uri: Uri = url.parse().map_err(|e| wrong().with_source(e))?;
    let Some(host) = uri.host().filter(|_| url.contains("://")) else { return Err(wrong()) };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") if encrypted => Ok(uri),
        Some("https") => {
            Err(Error::invalid(format!("coordinator {text:?} wants a certificate, and [tls] names none"))
                .with_hint("palinurus certs issue DIR agent makes one: set certificate, key and ca of [tls]"))
        }
        Some("http") if !encrypted && here => Ok(uri),
        Some("http") if encrypted => {
            Err(Error::denied(format!("coordinator {text:?} is not encrypted, and there is [tls]"))
                .with_hint("write https://"))
        }
        Some("http") => Err(Error::denied(format!(
            "coordinator {text:?} is another machine, and nothing would be encrypted"
        ))
        .with_hint("write https://, and set certificate, key and ca of [tls]")),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use palinurus_repository::ErrorKind::{self, Denied, Invalid};

    use super::*;

    #[test]
    fn nothing_leaves_this_machine_unencrypted() {
        let cases: [(&str, Option<ErrorKind>, Option<ErrorKind>); 9] = [
            ("http://127.0.0.1:7410", None, Some(Denied)),
            ("http://[::1]:7410", None, Some(Denied)),
            ("127.0.0.1:7410", None, None),
            ("http://10.0.0.1:7410", Some(Denied), Some(Denied)),
            ("10.0.0.1:7410", Some(Denied), None),
            ("https://10.0.0.1:7410", Some(Invalid), None),
            ("https://token@10.0.0.1:7410", Some(Invalid), Some(Invalid)),
            ("https://10.0.0.1:7410/?token=x", Some(Invalid), Some(Invalid)),
            ("ftp://10.0.0.1", Some(Invalid), Some(Invalid)),
        ];
        for (text, plain, encrypted) in cases {
            let kind = |encrypted| check(text, encrypted).err().map(|e| e.kind());
            assert_eq!((kind(false), kind(true)), (plain, encrypted), "{text}");
        }
    }
}
