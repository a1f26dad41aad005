//! Where coordinators are, as an operator writes it and as one coordinator says it of another.
use std::net::IpAddr;

use palinurus_identity::check_url;
use palinurus_repository::{Error, Result};
use tonic::transport::Uri;

/// Checked: it may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) uri: Uri,
    text: String,
}

impl Address {
    fn parse(text: &str) -> Result<Self> {
        check_url(text)?;
        let wrong = || {
            Error::invalid(format!("{text:?} is not an address of a coordinator"))
                .with_hint("write it as https://host:7410, or http://127.0.0.1:7410")
        };
        let uri: Uri = text.parse().map_err(|error| wrong().with_source(error))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(wrong());
        }
        let address = Self { uri, text: text.to_owned() };
        if !address.is_encrypted() && !address.is_loopback() {
            return Err(Error::denied(format!("{text} is another machine and nothing would be encrypted"))
                .with_hint(
                    "write https://, and say who you are with --ca, --cert and --cert-key, or --token-file",
                ));
        }
        Ok(address)
    }

    /// One or more, separated by commas.
    pub(super) fn list(text: &str) -> Result<Vec<Self>> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let all: Vec<Self> = parts.map(Self::parse).collect::<Result<_>>()?;
        if all.is_empty() {
            return Err(Error::invalid("no address of a coordinator is given")
                .with_hint("write it as https://host:7410, or http://127.0.0.1:7410"));
        }
        if all.iter().any(Self::is_encrypted) && !all.iter().all(Self::is_encrypted) {
            return Err(Error::invalid("some of the coordinators' addresses are encrypted and some are not")
                .with_hint("write https:// for all of them"));
        }
        Ok(all)
    }

    /// The leader's, as this coordinator names it. The same rules hold for it as for what the operator wrote.
    pub(super) fn leader(&self, named: &str) -> Result<Self> {
        let scheme = self.uri.scheme_str().unwrap_or("http");
        let url = if named.contains("://") { named.to_owned() } else { format!("{scheme}://{named}") };
        let leader = Self::parse(&url).map_err(|e| {
            let told = format!("coordinator {self} says that the leader is at {named:?}");
            let error = Error::new(e.kind(), told).with_source(e.chain());
            error.with_hint(e.hint().unwrap_or("name the leader with --server"))
        })?;
        if self.is_encrypted() != leader.is_encrypted() {
            return Err(Error::denied(format!(
                "coordinator {self} says that the leader is at {named:?}, which is not as well encrypted"
            ))
            .with_hint("set [tls] and `advertise` alike for all coordinators"));
        }
        if leader.is_nowhere_from(self) {
            return Err(Error::invalid(format!(
                "coordinator {self} says that the leader is at {named:?}, which means nothing on this machine"
            ))
            .with_hint(
                "set `advertise` in the coordinators' configuration, or name the leader with --server",
            ));
        }
        Ok(leader)
    }

    /// Another machine's own loopback is not this one's.
    fn is_nowhere_from(&self, other: &Self) -> bool {
        let unspecified = self.host().parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        unspecified || (self.is_loopback() && !other.is_loopback())
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use palinurus_repository::ErrorKind;

    use super::*;

    fn kind(result: Result<Address>) -> Option<ErrorKind> {
        result.err().map(|e| e.kind())
    }

    #[test]
    fn nothing_goes_to_another_machine_unencrypted() {
        for (uri, refused) in [
            ("http://127.0.0.1:7410", None),
            ("http://localhost:1", None),
            ("http://[::1]:7410", None),
            ("http://10.0.0.1:7410", Some(ErrorKind::Denied)),
            ("http://localhost.example:7410", Some(ErrorKind::Denied)),
            ("https://10.0.0.1:7410", None),
            ("https://secret@10.0.0.1:7410", Some(ErrorKind::Invalid)),
            ("https://10.0.0.1:7410?token=secret", Some(ErrorKind::Invalid)),
            ("ftp://127.0.0.1:7410", Some(ErrorKind::Invalid)),
            ("127.0.0.1:7410", Some(ErrorKind::Invalid)),
        ] {
            let parsed = Address::parse(uri);
            assert!(!format!("{:?}", parsed.as_ref().err()).contains("secret"), "{parsed:?}");
            assert_eq!(kind(parsed), refused, "{uri}");
        }
    }

    #[test]
    fn several_are_separated_by_commas() {
        let list = |text| Address::list(text).map(|all| all.iter().map(ToString::to_string).collect());
        let two: Vec<String> = list("http://127.0.0.1:1, http://127.0.0.1:2,").unwrap();
        assert_eq!(two, ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        assert_eq!(list(" , ").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(list("http://127.0.0.1:1,http://10.0.0.1:1").unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(list("http://127.0.0.1:1,https://10.0.0.1:1").unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn following_a_leader_weakens_nothing() {
        let here = Address::parse("http://127.0.0.1:7410").unwrap();
        let there = Address::parse("https://10.0.0.1:7410").unwrap();
        assert_eq!(here.leader("127.0.0.1:7411").unwrap().to_string(), "http://127.0.0.1:7411");
        assert_eq!(there.leader("10.0.0.2:7410").unwrap().to_string(), "https://10.0.0.2:7410");
        for denied in [
            here.leader("10.0.0.2:7410"),
            there.leader("http://10.0.0.2:7410"),
            there.leader("http://127.0.0.1:1"),
        ] {
            assert_eq!(kind(denied), Some(ErrorKind::Denied));
        }
        for nowhere in ["127.0.0.1:7410", "0.0.0.0:7410", "https://[::]:7410"] {
            assert_eq!(kind(there.leader(nowhere)), Some(ErrorKind::Invalid), "{nowhere}");
        }
        assert_eq!(kind(here.leader("not an address")), Some(ErrorKind::Invalid));
    }
}
