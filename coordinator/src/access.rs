//! Who may call what: one table, asked before anything of a call is read. What stands in no table is refused.
use std::sync::Arc;

use palinurus_identity::{Known, Reloading, Role, TlsServer, Token, Tokens, Who};
use palinurus_repository::{Clock, Error, Result};
use tonic::codegen::http;
use tower::layer::util::{Identity, Stack};

use crate::audit::Audit;
use crate::listen::Peer;
use crate::shared::{Base, World};

mod guard;
mod sees;

pub(crate) use guard::Guard;
pub(crate) use sees::Sees;

/// A server in which every call goes by the guard.
pub(crate) type Guarded = Stack<Guard, Identity>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Whoever has a connection.
    Nothing,
    Agent,
    /// From `Operator` up it is a change, and goes into the audit log.
    Role(Role),
}

/// What a call is to a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenants {
    /// Nothing.
    No,
    /// It tells nothing of any service.
    Free,
    /// It names one service, as the first field of what is asked, which must be theirs. Held to that by the guard.
    Named,
    /// The same, or of all services: then it answers with theirs alone, see `Sees`.
    Filtered,
    /// It names an operation, which must be of a service of theirs, see `Sees`.
    Operation,
}

const TABLE: &[(&str, Needs, Tenants)] = &[
    ("/palinurus.v1.Coordinator/ApplyService", Needs::Role(Role::Admin), Tenants::No),
    ("/palinurus.v1.Coordinator/ListServices", Needs::Role(Role::Viewer), Tenants::Filtered),
    ("/palinurus.v1.Coordinator/GetService", Needs::Role(Role::Viewer), Tenants::Named),
    ("/palinurus.v1.Coordinator/ListNodes", Needs::Role(Role::Viewer), Tenants::Filtered),
    ("/palinurus.v1.Coordinator/StartBackup", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/ListBackups", Needs::Role(Role::Viewer), Tenants::Filtered),
    ("/palinurus.v1.Coordinator/GetBackup", Needs::Role(Role::Viewer), Tenants::Named),
    ("/palinurus.v1.Coordinator/DeleteBackup", Needs::Role(Role::Admin), Tenants::No),
    ("/palinurus.v1.Coordinator/PlanRetention", Needs::Role(Role::Viewer), Tenants::Named),
    ("/palinurus.v1.Coordinator/ApplyRetention", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/PinBackup", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/UnpinBackup", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/HoldBackup", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/UnholdBackup", Needs::Role(Role::Admin), Tenants::No),
    ("/palinurus.v1.Coordinator/PlanRestore", Needs::Role(Role::Viewer), Tenants::No),
    ("/palinurus.v1.Coordinator/ApplyRestore", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/StartDrill", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/PlanFailover", Needs::Role(Role::Viewer), Tenants::No),
    ("/palinurus.v1.Coordinator/ApplyFailover", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/CheckRepository", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/RepairRepository", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/ListOperations", Needs::Role(Role::Viewer), Tenants::Filtered),
    ("/palinurus.v1.Coordinator/GetOperation", Needs::Role(Role::Viewer), Tenants::Operation),
    ("/palinurus.v1.Coordinator/WatchOperation", Needs::Role(Role::Viewer), Tenants::Operation),
    ("/palinurus.v1.Coordinator/CancelOperation", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/ShowLogs", Needs::Role(Role::Viewer), Tenants::Named),
    ("/palinurus.v1.Coordinator/ListPlans", Needs::Role(Role::Viewer), Tenants::Free),
    ("/palinurus.v1.Coordinator/GetCluster", Needs::Role(Role::Viewer), Tenants::Free),
    ("/palinurus.v1.Coordinator/PowerOff", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/PowerOn", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Coordinator/DeleteService", Needs::Role(Role::Admin), Tenants::No),
    ("/palinurus.v1.Coordinator/SetLimits", Needs::Role(Role::Operator), Tenants::No),
    ("/palinurus.v1.Fleet/Session", Needs::Agent, Tenants::No),
    ("/palinurus.v1.Fleet/Claim", Needs::Agent, Tenants::No),
    ("/palinurus.v1.Fleet/Log", Needs::Agent, Tenants::No),
    // What a load balancer asks, which is nobody.
    ("/grpc.health.v1.Health/Check", Needs::Nothing, Tenants::Free),
    ("/grpc.health.v1.Health/List", Needs::Nothing, Tenants::Free),
    ("/grpc.health.v1.Health/Watch", Needs::Nothing, Tenants::Free),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Needs::Role(Role::Viewer), Tenants::No),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Needs::Role(Role::Viewer),
        Tenants::No,
    ),
];

pub(crate) fn needs(rpc: &str) -> Option<Needs> {
    row(rpc).map(|(needs, _)| needs)
}

fn row(rpc: &str) -> Option<(Needs, Tenants)> {
    TABLE.iter().find(|(known, ..)| *known == rpc).map(|(_, needs, tenants)| (*needs, *tenants))
}

impl Needs {
    pub(crate) fn changes(self) -> bool {
        matches!(self, Self::Role(role) if role > Role::Viewer)
    }
}

/// Who calls, as far as it is proved. With the call, for whoever answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Without encryption: on this machine, and asked nothing.
    Local,
    Nobody,
    Holder(Who),
    Token {
        name: String,
        role: Role,
        /// A tenant's.
        services: Vec<String>,
    },
}

impl Caller {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Local => "local".to_owned(),
            Self::Nobody => "nobody".to_owned(),
            Self::Holder(who) => who.name(),
            Self::Token { name, .. } => name.clone(),
        }
    }

    pub(crate) fn role(&self) -> Option<Role> {
        match self {
            Self::Holder(Who::Operator { role, .. }) | Self::Token { role, .. } => Some(*role),
            Self::Holder(Who::Tenant { .. }) => Some(Role::Tenant),
            Self::Local | Self::Nobody | Self::Holder(_) => None,
        }
    }

    /// What a tenant sees; everybody else sees all.
    pub(crate) fn sees(&self) -> Sees {
        match self {
            Self::Holder(Who::Tenant { services, .. }) | Self::Token { role: Role::Tenant, services, .. } => {
                Sees::only(self.name(), services.clone())
            }
            _ => Sees::all(),
        }
    }

    pub(crate) fn may(&self, rpc: &str) -> Result<()> {
        let name = rpc.rsplit('/').next().unwrap_or_default();
        let Some((needs, tenants)) = row(rpc) else {
            return Err(Error::denied(format!("{name} is for nobody: it has no role")));
        };
        let denied = |hint: &str| {
            let error = Error::denied(format!("{} may not call {name}", self.name()));
            Err(error.with_hint(hint))
        };
        match (needs, self) {
            (_, Self::Local) | (Needs::Nothing, _) | (Needs::Agent, Self::Holder(Who::Agent { .. })) => {
                Ok(())
            }
            (_, Self::Nobody) => {
                Err(Error::denied("who calls is not known: there was no certificate and no token")
                    .with_hint("give --cert and --cert-key, or --token-file"))
            }
            (Needs::Agent, _) => denied("an agent's certificate is needed: palinurus certs issue DIR agent"),
            (Needs::Role(wanted), _) => match self.role() {
                Some(role) if role >= wanted => Ok(()),
                Some(Role::Tenant) if tenants != Tenants::No => Ok(()),
                Some(role) => {
                    Err(Error::denied(format!("{} is {role}, and {name} wants {wanted}", self.name()))
                        .with_hint(format!("a certificate or token of an {wanted} is needed")))
                }
                None => denied("an operator's certificate or token is needed"),
            },
        }
    }

    /// An agent speaks for its own node, and for no other.
    pub(crate) fn speaks_for(&self, service: &str, node: &str) -> Result<()> {
        match self {
            Self::Local => Ok(()),
            Self::Holder(Who::Agent { service: own, node: named, .. }) if own == service && named == node => Ok(()),
            other => Err(Error::denied(format!("{} may not speak for node {node} of service {service}", other.name()))
                .with_hint(format!(
                    "it needs a certificate of its own: palinurus certs issue DIR agent --service {service} --node {node}"
                ))),
        }
    }

    pub(crate) fn is_spare(&self) -> bool {
        matches!(self, Self::Holder(Who::Agent { spare: true, .. }))
    }
}

/// What proves callers, and where it is noted what they did.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tls: Option<Arc<TlsServer>>,
    tokens: Option<Reloading<Tokens>>,
    clock: Arc<dyn Clock>,
    /// None: in a network of the caller's.
    pub(crate) audit: Option<Audit>,
}

impl Access {
    pub(crate) async fn open(base: &Base) -> Result<Self> {
        let (config, World { clock, listen, blocking, .. }) = (&base.config, &base.world);
        let tokens = config.tokens.clone();
        let with_tokens = !tokens.as_os_str().is_empty();
        let tls = config.tls.in_use().then(|| TlsServer::new(&config.tls, with_tokens, clock.clone()));
        let read = || Reloading::new("tokens", vec![tokens.clone()], move || Tokens::read(&tokens));
        let audit = match listen {
            Some(_) => None,
            None => Some(Audit::open(&config.audit(), &config.name, clock.clone(), *blocking).await?),
        };
        Ok(Self {
            tls: tls.transpose()?.map(Arc::new),
            tokens: with_tokens.then(read).transpose()?,
            clock: clock.clone(),
            audit,
        })
    }

    fn caller<B>(&self, request: &http::Request<B>) -> Result<Caller> {
        let Some(peer) = request.extensions().get::<Peer>() else {
            return Err(Error::internal("a call without a connection"));
        };
        if peer.known == Known::Plain {
            return Ok(Caller::Local);
        }
        if let Some(header) = request.headers().get(http::header::AUTHORIZATION) {
            return self.by_token(header);
        }
        match &peer.known {
            Known::Plain => Ok(Caller::Local),
            Known::Nobody => Ok(Caller::Nobody),
            Known::Holder(who) => Ok(Caller::Holder(who.clone())),
            Known::Unclear(why) => Err(Error::denied("the certificate says nothing that is understood here")
                .with_source(why.clone())
                .with_hint("`palinurus certs issue` makes certificates that name their holder")),
        }
    }

    /// Who shows a token is that token's holder, whatever certificate there is.
    fn by_token(&self, header: &http::HeaderValue) -> Result<Caller> {
        let unknown = || {
            Error::denied("the token is not known here, or has ended")
                .with_hint("`palinurus tokens generate` makes one; the coordinator's `tokens` names the file")
        };
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(unknown)?;
        let token = Token::parse(token).map_err(|_| unknown())?;
        let tokens = self.tokens.as_ref().ok_or_else(unknown)?.current();
        let holder = tokens.holder(&token, self.clock.now()).ok_or_else(unknown)?;
        let palinurus_identity::Holder { name, role, services, .. } = holder.clone();
        Ok(Caller::Token { name, role, services })
    }
}

#[cfg(test)]
mod tests;
