//! The records by name and type: the one place that knows the keys and the encoding.
use std::sync::Arc;

use bytes::Bytes;
use palinurus_proto::v1;
use palinurus_repository::{Epoch, Error, Result};
use prost::Message;

use super::{Expect, Record, State};
use crate::notify::Outbox;

/// A record and the revision it was read or written at.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) revision: u64,
}

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Service(&'a str),
    /// The service, and the node's name.
    Node(&'a str, &'a str),
    /// The service, and the operation's id.
    Operation(&'a str, &'a str),
}

impl<'a> Key<'a> {
    /// None for what a later version keeps.
    pub(crate) fn of(key: &'a str) -> Option<Self> {
        match *key.split('/').collect::<Vec<_>>() {
            ["service", name] => Some(Self::Service(name)),
            ["node", service, node] => Some(Self::Node(service, node)),
            ["operation", service, id] => Some(Self::Operation(service, id)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Records(Arc<dyn State>);

impl Records {
    pub(crate) fn new(state: Arc<dyn State>) -> Self {
        Self(state)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    pub(crate) async fn services(&self) -> Result<Vec<Versioned<v1::Service>>> {
        self.list("service/").await
    }

    pub(crate) async fn service(&self, name: &str) -> Result<Option<Versioned<v1::Service>>> {
        let key = format!("service/{name}");
        self.0.get(&key).await?.map(|record| decode(&key, record)).transpose()
    }

    pub(crate) async fn put_service(&self, service: &v1::Service, expect: Expect) -> Result<u64> {
        self.put(&format!("service/{}", service.name), service, expect).await
    }

    pub(crate) async fn delete_service(&self, service: &str) -> Result<()> {
        self.0.delete(&format!("service/{service}"), Expect::Any).await
    }

    pub(crate) async fn operations(&self, service: &str) -> Result<Vec<Versioned<v1::Operation>>> {
        self.list(&format!("operation/{service}/")).await
    }

    pub(crate) async fn operation(&self, service: &str, id: &str) -> Result<Versioned<v1::Operation>> {
        let key = format!("operation/{service}/{id}");
        let record = self.0.get(&key).await?;
        let record = record.ok_or_else(|| Error::not_found(format!("there is no record {key}")))?;
        decode(&key, record)
    }

    pub(crate) async fn put_operation(&self, operation: &v1::Operation, expect: Expect) -> Result<u64> {
        self.put(&operation_key(operation), operation, expect).await
    }

    pub(crate) async fn delete_operation(&self, operation: &v1::Operation) -> Result<()> {
        self.0.delete(&operation_key(operation), Expect::Any).await
    }

    pub(crate) async fn nodes(&self, service: &str) -> Result<Vec<Versioned<v1::Node>>> {
        self.list(&format!("node/{service}/")).await
    }

    pub(crate) async fn put_node(&self, node: &v1::Node) -> Result<u64> {
        self.put(&format!("node/{}/{}", node.service, node.name), node, Expect::Any).await
    }

    pub(crate) async fn delete_node(&self, service: &str, node: &str) -> Result<()> {
        self.0.delete(&format!("node/{service}/{node}"), Expect::Any).await
    }

    pub(crate) async fn outboxes(&self) -> Result<Vec<Versioned<Outbox>>> {
        self.list("notices/").await
    }

    pub(crate) async fn outbox(&self, service: &str) -> Result<Option<Versioned<Outbox>>> {
        let key = format!("notices/{service}");
        self.0.get(&key).await?.map(|record| decode(&key, record)).transpose()
    }

    pub(crate) async fn put_outbox(&self, outbox: &Outbox, expect: Expect) -> Result<u64> {
        self.put(&format!("notices/{}", outbox.service), outbox, expect).await
    }

    pub(crate) async fn delete_outbox(&self, service: &str) -> Result<()> {
        self.0.delete(&format!("notices/{service}"), Expect::Any).await
    }

    async fn list<T: Message + Default>(&self, prefix: &str) -> Result<Vec<Versioned<T>>> {
        let found = self.0.list(prefix).await?;
        found.into_iter().map(|(key, record)| decode(&key, record)).collect()
    }

    async fn put<T: Message>(&self, key: &str, value: &T, expect: Expect) -> Result<u64> {
        self.0.put(key, Bytes::from(value.encode_to_vec()), expect).await
    }
}

pub(crate) fn decode<T: Message + Default>(key: &str, record: Record) -> Result<Versioned<T>> {
    let value = T::decode(record.value)
        .map_err(|e| Error::corrupt(format!("the record {key} does not decode")).with_source(e))?;
    Ok(Versioned { value, revision: record.revision })
}

fn operation_key(operation: &v1::Operation) -> String {
    format!("operation/{}/{}", operation.service, operation.id)
}
