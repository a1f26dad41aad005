//! Whom a certificate names: one URI among its alternative names.
use std::fmt;
use std::str::FromStr;

use palinurus_repository::id::check_name;
use palinurus_repository::{Error, Result};
use rustls::pki_types::CertificateDer;

use crate::role::Role;

const SCHEME: &str = "palinurus://";
const HINT: &str = "`palinurus certs issue` makes certificates that name their holder";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Coordinator {
        name: String,
    },
    Agent {
        service: String,
        node: String,
        /// Only for a place that is a spare's, or was when it took another's.
        spare: bool,
    },
    Operator {
        name: String,
        /// Not a tenant's.
        role: Role,
    },
    Tenant {
        name: String,
        /// At least one.
        services: Vec<String>,
    },
}

impl Who {
    /// Of a certificate that is trusted already.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self> {
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|e| Error::invalid("the certificate cannot be read").with_source(e.to_string()))?;
        let mut names = parsed.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        match (names.next(), names.next()) {
            (Some(uri), None) => uri.parse(),
            (None, _) => {
                Err(Error::denied(format!("the certificate names nobody by a {SCHEME} URI")).with_hint(HINT))
            }
            (Some(_), Some(_)) => {
                Err(Error::denied(format!("the certificate has more than one {SCHEME} URI")).with_hint(HINT))
            }
        }
    }

    /// Says that it is well formed; whoever makes one asks.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Coordinator { name } => check_name("coordinator", name),
            Self::Operator { role: Role::Tenant, .. } => Err(Error::invalid("a tenant is no operator")),
            Self::Operator { name, .. } => check_name("operator", name),
            Self::Tenant { name, services } => check_tenant(name, services),
            Self::Agent { service, node, .. } => {
                check_name("service", service).and_then(|()| check_name("node", node))
            }
        }
    }

    /// Without role and place: for the log.
    pub fn name(&self) -> String {
        match self {
            Self::Coordinator { name } => format!("coordinator {name}"),
            Self::Operator { name, .. } | Self::Tenant { name, .. } => name.clone(),
            Self::Agent { service, node, spare: false } => format!("agent {service}/{node}"),
            Self::Agent { service, node, spare: true } => format!("agent {service}/{node} (spare)"),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator { name } => write!(f, "{SCHEME}coordinator/{name}"),
            Self::Agent { service, node, spare } => {
                let kind = if *spare { "spare" } else { "node" };
                write!(f, "{SCHEME}service/{service}/{kind}/{node}")
            }
            Self::Operator { name, role } => write!(f, "{SCHEME}operator/{name}?role={role}"),
            Self::Tenant { name, services } => {
                write!(f, "{SCHEME}tenant/{name}")?;
                let mut before = "?";
                services.iter().try_for_each(|service| {
                    write!(f, "{}service={service}", std::mem::replace(&mut before, "&"))
                })
            }
        }
    }
}

impl FromStr for Who {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let wrong = || {
            let error = Error::denied(format!("the certificate's name {:?} is not understood", shorten(uri)));
            error.with_hint(HINT)
        };
        let path = uri.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let owned = str::to_owned;
        let who = match *path.split('/').collect::<Vec<_>>() {
            ["coordinator", name] => Self::Coordinator { name: owned(name) },
            ["service", service, kind @ ("node" | "spare"), node] => {
                Self::Agent { service: owned(service), node: owned(node), spare: kind == "spare" }
            }
            ["operator", named] => {
                let (name, role) = named.split_once("?role=").ok_or_else(wrong)?;
                Self::Operator { name: owned(name), role: role.parse().map_err(|_| wrong())? }
            }
            ["tenant", named] => {
                let (name, services) = named.split_once('?').ok_or_else(wrong)?;
                let services = services.split('&').map(|each| each.strip_prefix("service=").map(owned));
                Self::Tenant {
                    name: owned(name),
                    services: services.collect::<Option<_>>().ok_or_else(wrong)?,
                }
            }
            _ => return Err(wrong()),
        };
        who.check().map_err(|_| wrong())?;
        Ok(who)
    }
}

pub(crate) fn check_tenant(name: &str, services: &[String]) -> Result<()> {
    check_name("tenant", name)?;
    if services.is_empty() {
        return Err(Error::invalid(format!("tenant {name} has no service")).with_hint("name one: --service"));
    }
    services.iter().try_for_each(|service| check_name("service", service))
}

fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(200)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_nothing_else_does() {
        let owned = str::to_owned;
        for who in [
            Who::Coordinator { name: owned("c1") },
            Who::Agent { service: owned("shop"), node: owned("n1"), spare: false },
            Who::Agent { service: owned("shop"), node: owned("s1"), spare: true },
            Who::Operator { name: owned("ada"), role: Role::Admin },
            Who::Tenant { name: owned("eve"), services: vec![owned("shop")] },
            Who::Tenant { name: owned("eve"), services: vec![owned("shop"), owned("blog")] },
        ] {
            assert_eq!(who.to_string().parse::<Who>().unwrap(), who);
        }
        for bad in [
            "palinurus://",
            "palinurus://coordinator/",
            "palinurus://coordinator/c1/",
            "palinurus://coordinator/c 1",
            "palinurus://service/shop/node/../n1",
            "palinurus://service/shop/node/n1?role=admin",
            "palinurus://service//node/n1",
            "palinurus://operator/ada",
            "palinurus://operator/ada?role=root",
            "palinurus://operator/ada?role=tenant",
            "palinurus://tenant/eve",
            "palinurus://tenant/eve?service=",
            "palinurus://tenant/eve?service=shop&role=admin",
            "palinurus://tenant/eve?service=*",
            "palinurus://tenant/?service=shop",
            "palinurus://operator/ada?role=admin&role=viewer",
            "palinurus://operator/ada?role=admin/x",
            "PALINURUS://operator/ada?role=admin",
            "spiffe://operator/ada?role=admin",
        ] {
            assert!(bad.parse::<Who>().is_err(), "{bad}");
        }
    }
}
