//! What went wrong with TLS, as whoever has to mend it should read it.
use std::io;

use palinurus_repository::{Error, ErrorKind};
use rustls::{AlertDescription as Alert, CertificateError as Bad};

/// A connection to a coordinator that did not come about.
pub(crate) fn dialling(address: &str, error: io::Error) -> Error {
    use rustls::Error as E;
    let denied = |what: String, hint: String| Error::denied(what).with_hint(hint);
    match tls(&error) {
        Some(E::InvalidCertificate(bad)) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => denied(
                format!("the certificate of the coordinator at {address} was signed by an authority that is not ours"),
                "see that `ca` is the authority that signed it, and that the address is right".into(),
            ),
            Bad::Expired | Bad::ExpiredContext { .. } => denied(
                format!("the certificate of the coordinator at {address} has expired"),
                "issue it a new one (`palinurus certs issue`): it takes it without a restart; or see this machine's clock".into(),
            ),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => denied(
                format!("the certificate of the coordinator at {address} is not valid yet"),
                "see the clock of this machine".into(),
            ),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => denied(
                format!("the certificate of the coordinator at {address} is not for that address"),
                "use an address that it is for (`palinurus certs show`), or issue one with --address".into(),
            ),
            Bad::Revoked => denied(
                format!("the certificate of the coordinator at {address} has been revoked"),
                "it may be somebody who should not be there; issue the coordinator a new one".into(),
            ),
            Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => denied(
                format!("what answers at {address} has no coordinator's certificate"),
                "it may be somebody who should not be there: see who listens".into(),
            ),
            Bad::Other(other) => denied(
                format!("what answers at {address} shows a wrong certificate: {other}"),
                "it may be somebody who should not be there: see who listens".into(),
            ),
            other => Error::denied(format!("the certificate of the coordinator at {address} is not good"))
                .with_source(format!("{other:?}")),
        },
        Some(E::InvalidMessage(_)) => Error::invalid(format!("what answers at {address} does not speak TLS"))
            .with_hint("a coordinator on this machine that runs with --insecure-plaintext is reached by http://"),
        Some(E::AlertReceived(alert)) => refused(*alert),
        _ => Error::unavailable(format!("no coordinator answers at {address}")).with_source(error),
    }
}

/// What the other side says of our certificate.
pub(crate) fn refused(alert: Alert) -> Error {
    let (what, hint) = match alert {
        Alert::CertificateRequired | Alert::NoCertificate => (
            "the coordinator wants a certificate, and none was shown",
            "give one: --cert and --cert-key for an operator, [tls] for an agent",
        ),
        Alert::UnknownCA | Alert::DecryptError | Alert::BadCertificate => (
            "the coordinator does not believe our certificate: another authority signed it",
            "use one that was issued by the coordinator's authority",
        ),
        Alert::CertificateExpired => (
            "the coordinator says that our certificate has expired, or is not valid yet",
            "`palinurus certs show FILE` says until when it holds; issue a new one, or see the clocks",
        ),
        Alert::CertificateRevoked => (
            "the coordinator says that our certificate has been revoked",
            "issue a new one: `palinurus certs issue --renew`",
        ),
        Alert::UnsupportedCertificate | Alert::CertificateUnknown | Alert::AccessDenied => (
            "the coordinator does not take our certificate for this",
            "an agent's or operator's certificate is what it wants; `palinurus certs show FILE` says whose it is",
        ),
        _ => {
            return Error::unavailable("the coordinator ended the TLS connection")
                .with_source(format!("{alert:?}"));
        }
    };
    Error::new(ErrorKind::Denied, what).with_hint(hint)
}

/// A caller that did not get in; for the coordinator's log.
pub(crate) fn accepting(error: &io::Error) -> Error {
    match tls(error) {
        Some(bad @ rustls::Error::InvalidCertificate(_)) => {
            Error::denied("its certificate is not believed").with_source(bad.to_string())
        }
        Some(rustls::Error::NoCertificatesPresented) => Error::denied("it showed no certificate"),
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::denied("it does not believe our certificate").with_source(format!("{alert:?}"))
        }
        Some(other) => Error::invalid("it does not speak TLS as we do").with_source(other.to_string()),
        None => Error::unavailable("it went away").with_source(error.to_string()),
    }
}

pub(crate) fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}
