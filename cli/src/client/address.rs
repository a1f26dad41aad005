//! Where coordinators are, as an operator writes it and as one coordinator says it of another.
use std::net::IpAddr;

use palinurus_repository::{Error, Result};
use tonic::transport::Uri;

/// Checked: it may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) uri: Uri,
    text: String,
}

impl Address {
    fn parse(text: &str, insecure_plaintext: bool) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("{text:?} is not an address of a coordinator"))
                .with_hint("write it as http://127.0.0.1:7410")
        };
        let uri: Uri = text.parse().map_err(|error| wrong().with_source(error))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(wrong());
        }
        let address = Self { uri, text: text.to_owned() };
        if !insecure_plaintext && !address.is_loopback() {
            return Err(Error::denied(format!("{text} is another machine and nothing would be encrypted"))
                .with_hint(
                    "run the command there, or say --insecure-plaintext on a network that you trust",
                ));
        }
        Ok(address)
    }

    /// One or more, separated by commas.
    pub(super) fn list(text: &str, insecure_plaintext: bool) -> Result<Vec<Self>> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let all: Vec<Self> =
            parts.map(|part| Self::parse(part, insecure_plaintext)).collect::<Result<_>>()?;
        if all.is_empty() {
            return Err(Error::invalid("no address of a coordinator is given")
                .with_hint("write it as http://127.0.0.1:7410"));
        }
        Ok(all)
    }

    /// The leader's, as this coordinator names it. The same rules hold for it as for what the operator wrote.
    pub(super) fn leader(&self, named: &str, insecure_plaintext: bool) -> Result<Self> {
        let url = if named.contains("://") { named.to_owned() } else { format!("http://{named}") };
        let leader = Self::parse(&url, insecure_plaintext).map_err(|e| {
            let told = format!("coordinator {self} says that the leader is at {named:?}");
            let error = Error::new(e.kind(), told).with_source(e.chain());
            error.with_hint(e.hint().unwrap_or("name the leader with --server"))
        })?;
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
    fn only_this_machine_is_loopback() {
        for (uri, refused) in [
            ("http://127.0.0.1:7410", None),
            ("http://localhost:1", None),
            ("http://[::1]:7410", None),
            ("http://10.0.0.1:7410", Some(ErrorKind::Denied)),
            ("http://localhost.example:7410", Some(ErrorKind::Denied)),
            ("https://127.0.0.1:7410", Some(ErrorKind::Invalid)),
            ("127.0.0.1:7410", Some(ErrorKind::Invalid)),
        ] {
            assert_eq!(kind(Address::parse(uri, false)), refused, "{uri}");
        }
    }

    #[test]
    fn several_are_separated_by_commas() {
        let list = |text| Address::list(text, false).map(|all| all.iter().map(ToString::to_string).collect());
        let two: Vec<String> = list("http://127.0.0.1:1, http://127.0.0.1:2,").unwrap();
        assert_eq!(two, ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        assert_eq!(list(" , ").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(list("http://127.0.0.1:1,http://10.0.0.1:1").unwrap_err().kind(), ErrorKind::Denied);
    }

    #[test]
    fn following_a_leader_weakens_nothing() {
        let here = Address::parse("http://127.0.0.1:7410", false).unwrap();
        let there = Address::parse("http://10.0.0.1:7410", true).unwrap();
        assert_eq!(here.leader("127.0.0.1:7411", false).unwrap().to_string(), "http://127.0.0.1:7411");
        assert_eq!(kind(here.leader("10.0.0.2:7410", false)), Some(ErrorKind::Denied));
        assert_eq!(kind(there.leader("10.0.0.2:7410", true)), None);
        for nowhere in ["127.0.0.1:7410", "0.0.0.0:7410", "http://[::]:7410"] {
            assert_eq!(kind(there.leader(nowhere, true)), Some(ErrorKind::Invalid), "{nowhere}");
        }
        assert_eq!(kind(here.leader("not an address", true)), Some(ErrorKind::Invalid));
    }
}
