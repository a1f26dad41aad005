//! The URL of a store behind a network: `scheme://container/prefix?setting=value&…`. It is kept in records, shown and
//! logged, so no secret may be in it, and nothing refused here is repeated in a message but names.
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::check_key;
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub(super) struct Address {
    scheme: &'static str,
    /// Bucket or container.
    pub(super) container: String,
    /// Empty, or ends in `/`.
    pub(super) prefix: String,
    settings: BTreeMap<String, String>,
}

impl Address {
    /// `rest` is what follows `scheme:`. Settings not in `known` are refused.
    pub(super) fn parse(scheme: &'static str, rest: &str, known: &[&str]) -> Result<Self> {
        let usage = || format!("write {scheme}://name/prefix");
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place.strip_prefix("//").unwrap_or_default();
        if place.contains('@') || query.contains('#') || place.contains('#') {
            return Err(secret(scheme));
        }
        let (container, prefix) = place.split_once('/').unwrap_or((place, ""));
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        if container.is_empty() || container.len() > 255 || !container.bytes().all(fits) {
            return Err(Error::invalid(format!("a {scheme}: URL names no container")).with_hint(usage()));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && check_key(prefix).is_err() {
            return Err(Error::invalid(format!(
                "the prefix in a {scheme}: URL cannot begin an object's name"
            ))
            .with_hint("parts of letters, digits and ._- with / between them"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let mut settings = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                return Err(unknown(scheme, name, known));
            }
            let value = decode(value).filter(|value| !value.is_empty()).ok_or_else(|| {
                Error::invalid(format!("{name} in a {scheme}: URL has no value")).with_hint(usage())
            })?;
            if settings.insert(name.to_owned(), value).is_some() {
                return Err(Error::invalid(format!("{name} is given twice in a {scheme}: URL")));
            }
        }
        Ok(Self { scheme, container: container.to_owned(), prefix, settings })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Error::invalid(format!("{name} in a {}: URL is true or false", self.scheme))),
        }
    }

    /// The `endpoint`, which may be without TLS on this machine only, unless `allow_http=true`.
    pub(super) fn endpoint(&self) -> Result<Option<&str>> {
        let Some(endpoint) = self.get("endpoint") else { return Ok(None) };
        let (scheme, rest) = endpoint.split_once("://").unwrap_or_default();
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') || rest.contains('?') {
            return Err(secret(self.scheme));
        }
        match scheme {
            _ if authority.is_empty() => {}
            "https" => return Ok(Some(endpoint)),
            "http" if is_loopback(authority) || self.flag("allow_http")? == Some(true) => {
                return Ok(Some(endpoint));
            }
            "http" => {
                return Err(Error::invalid(format!("endpoint {endpoint} is plain http")).with_hint(
                    "use https://, or add allow_http=true when nobody can listen on that network",
                ));
            }
            _ => {}
        }
        Err(Error::invalid(format!("endpoint in a {}: URL is no http address", self.scheme))
            .with_hint("write endpoint=https://host:port"))
    }

    /// The URL without settings, for messages.
    pub(super) fn name(&self) -> String {
        let at = self.get("endpoint").map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        format!("{}://{}/{}{at}", self.scheme, self.container, self.prefix.trim_end_matches('/'))
    }
}

fn secret(scheme: &str) -> Error {
    Error::invalid(format!("a {scheme}: URL carries a secret"))
        .with_hint("URLs are logged and kept: name a file with credentials=/path, or use the environment")
}

fn unknown(scheme: &str, name: &str, known: &[&str]) -> Error {
    let lower = name.to_ascii_lowercase();
    let secrets = ["key", "secret", "token", "password", "sig", "sas", "auth"];
    if secrets.iter().any(|word| lower.contains(word)) {
        return secret(scheme);
    }
    let shown: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
    Error::invalid(format!("{shown:?} is no setting of a {scheme}: URL"))
        .with_hint(format!("known: {}", known.join(", ")))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Percent-decodes. None for what is no text or has control characters.
fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["endpoint", "region", "ca", "allow_http"];

    fn parse(rest: &str) -> Result<Address> {
        Address::parse("s3", rest, &KNOWN)
    }

    #[test]
    fn parts_of_a_url() {
        let address = parse("//bucket/a/b/?endpoint=http://127.0.0.1:83&region=eu%2Dwest-1").unwrap();
        assert_eq!((address.container.as_str(), address.prefix.as_str()), ("bucket", "a/b/"));
        assert_eq!(address.get("region"), Some("eu-west-1"));
        assert_eq!(address.endpoint().unwrap(), Some("http://127.0.0.1:83"));
        assert_eq!(address.name(), "s3://bucket/a/b at http://127.0.0.1:83");
        assert_eq!(parse("//bucket").unwrap().prefix, "");
        for bad in ["", "//", "/bucket", "///x", "//b c", "//b/../c", "//b/-", "//b?region", "//b?region=%zz"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("//b?region=a&region=b").is_err());
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for url in [
            "//AKIA:hunter2@bucket/x",
            "//bucket?secret_access_key=hunter2",
            "//bucket?sig=hunter2",
            "//bucket?endpoint=http://me:hunter2@127.0.0.1",
            "//bucket?endpoint=https://host/?sv=hunter2",
        ] {
            let error = parse(url).and_then(|address| address.endpoint().map(drop)).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            assert!(error.hint().unwrap().contains("credentials="), "{error:?}");
        }
    }

    #[test]
    fn an_unknown_setting_is_told_the_known_ones() {
        let error = parse("//bucket?regoin=x").unwrap_err();
        assert_eq!(error.hint(), Some("known: endpoint, region, ca, allow_http"));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["http://localhost:1", "http://[::1]:1/path", "http://127.9.0.1", "https://example.org"] {
            assert!(parse(&format!("//b?endpoint={good}")).unwrap().endpoint().is_ok(), "{good}");
        }
        for bad in
            ["http://127.0.0.1.example.org", "http://10.0.0.1", "ftp://127.0.0.1", "127.0.0.1:1", "http://"]
        {
            assert!(parse(&format!("//b?endpoint={bad}")).unwrap().endpoint().is_err(), "{bad}");
        }
        assert!(parse("//b?endpoint=http://10.0.0.1&allow_http=true").unwrap().endpoint().is_ok());
    }
}
