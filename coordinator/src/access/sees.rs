//! Which services a caller sees. Of the others a tenant learns nothing: not whether they exist, nor what they are called.
use bytes::Bytes;
use palinurus_proto::v1;
use palinurus_repository::{Error, ErrorKind, Result};
use prost::Message;
use tonic::codegen::http;

use super::Caller;

#[derive(Clone, Debug)]
pub(crate) struct Sees(Option<Tenant>);

#[derive(Clone, Debug)]
struct Tenant {
    name: String,
    services: Vec<String>,
}

/// The first field of every request that names a service; a test holds the table to that.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    service: String,
}

impl Sees {
    pub(super) fn all() -> Self {
        Self(None)
    }

    pub(super) fn only(name: String, services: Vec<String>) -> Self {
        Self(Some(Tenant { name, services }))
    }

    /// Of a call that the guard let through.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self> {
        Self::noted(request.extensions().get::<Caller>())
    }

    fn noted(caller: Option<&Caller>) -> Result<Self> {
        caller.map(Caller::sees).ok_or_else(|| Error::internal("a call that no guard has seen"))
    }

    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn service(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|tenant| tenant.services.iter().any(|own| own == name))
    }

    /// Those of a list that are of its services.
    pub(crate) fn keep<T>(&self, all: Vec<T>, service: impl Fn(&T) -> &str) -> Vec<T> {
        all.into_iter().filter(|each| self.service(service(each))).collect()
    }

    /// The same whether or not there is anything.
    pub(crate) fn refusal(&self) -> Error {
        let (name, own) = self
            .0
            .as_ref()
            .map_or_else(Default::default, |tenant| (tenant.name.as_str(), tenant.services.join(", ")));
        Error::denied(format!("{name} is a tenant, and this is of no service of theirs"))
            .with_hint(format!("theirs: {own}"))
    }

    /// The body of a call that names a service; `empty`: or none, for all.
    pub(super) fn check(&self, framed: &Bytes, empty: bool) -> Result<()> {
        let broken = || Error::invalid("the call cannot be read");
        let (head, message) = framed.split_at_checked(5).ok_or_else(broken)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        // One message, which is not compressed: what is looked at here is what is answered.
        if head[0] != 0 || usize::try_from(length) != Ok(message.len()) {
            return Err(broken());
        }
        let named = Named::decode(message).map_err(|_| broken())?.service;
        if (empty && named.is_empty()) || self.service(&named) { Ok(()) } else { Err(self.refusal()) }
    }

    /// The operation whose id begins with `text`, among those of its services; none: everybody's are asked as ever.
    pub(crate) fn operation(
        &self,
        text: &str,
        all: impl Iterator<Item = std::sync::Arc<v1::Operation>>,
    ) -> Result<Option<String>> {
        if self.is_all() {
            return Ok(None);
        }
        let prefix = text.to_ascii_lowercase();
        let own = |it: &std::sync::Arc<v1::Operation>| {
            !prefix.is_empty() && self.service(&it.service) && it.id.starts_with(&prefix)
        };
        let mut found = all.filter(own).map(|it| it.id.clone());
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(Some(id)),
            (Some(_), Some(_)) => Err(Error::invalid(format!("{text:?} names more than one operation"))
                .with_hint("give more digits")),
            (None, _) => Err(self.refusal()),
        }
    }

    /// An answer to it: hints name what there is beside.
    pub(crate) fn told<T>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(e) if !self.is_all() && e.kind() == ErrorKind::NotFound => {
                Err(Error::not_found(e.what().to_owned()))
            }
            other => other,
        }
    }
}

/// For a request of any body.
pub(super) fn names_service<B>(request: &http::Request<B>) -> Option<bool> {
    match super::row(request.uri().path()) {
        Some((_, super::Tenants::Named)) => Some(false),
        Some((_, super::Tenants::Filtered)) => Some(true),
        _ => None,
    }
}
