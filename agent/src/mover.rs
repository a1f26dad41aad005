//! Who moves a node's bytes. It is [`pipeline`] and [`restore`], on threads of their own; a simulation, which has no
//! threads, brings another.
use std::fmt;

use async_trait::async_trait;
use palinurus_proto::v1::{ManifestResult, UploadResult};
use palinurus_repository::Result;
use tokio_util::sync::CancellationToken;

use crate::pipeline::{self, Context};
use crate::restore::{self, Request, RestoreResult};

#[async_trait]
pub trait Mover: Send + Sync + fmt::Debug {
    /// Stores what nobody has stored.
    async fn upload(&self, context: Context, cancel: CancellationToken) -> Result<UploadResult>;

    /// Stores what a lost node had claimed and this one has too.
    async fn take_over(&self, context: Context, cancel: CancellationToken) -> Result<UploadResult>;

    /// Stores what the engine adds when everything else has been read.
    async fn append(&self, context: Context, cancel: CancellationToken) -> Result<UploadResult>;

    /// When all nodes have uploaded: writes this node's manifest.
    async fn manifest(&self, context: Context, cancel: CancellationToken) -> Result<ManifestResult>;

    async fn restore(&self, request: Request, cancel: CancellationToken) -> Result<RestoreResult>;
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

#[async_trait]
impl Mover for Threads {
    async fn upload(&self, context: Context, cancel: CancellationToken) -> Result<UploadResult> {
        pipeline::upload(context, cancel).await
    }

    async fn take_over(&self, context: Context, cancel: CancellationToken) -> Result<UploadResult> {
        pipeline::take_over(context, cancel).await
    }

    async fn append(&self, context: Context, cancel: CancellationToken) -> Result<UploadResult> {
        pipeline::append(context, cancel).await
    }

    async fn manifest(&self, context: Context, cancel: CancellationToken) -> Result<ManifestResult> {
        pipeline::manifest(context, cancel).await
    }

    async fn restore(&self, request: Request, cancel: CancellationToken) -> Result<RestoreResult> {
        restore::run(request, cancel).await
    }
}
