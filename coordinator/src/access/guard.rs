//! Stands before every call: who it is, whether they may, and that it is noted down first when it changes something.
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use palinurus_proto::to_status;
use palinurus_repository::{Error, Result};
use tonic::body::Body;
use tonic::codegen::http;
use tower::{Layer, Service};

use super::sees::names_service;
use super::{Access, Caller, needs};
use crate::audit::{Call, described, operation};
use crate::bound::MESSAGE_MAX;
use crate::listen::Peer;

/// For what a change asks to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of what is refused, only as much is read as is worth noting down.
const REFUSED_MAX: usize = 64 << 10;

#[derive(Clone, Debug)]
pub(crate) struct Guard(pub(crate) Arc<Access>);

impl<S> Layer<S> for Guard {
    type Service = GuardedCalls<S>;

    fn layer(&self, inner: S) -> GuardedCalls<S> {
        GuardedCalls { access: self.0.clone(), inner }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct GuardedCalls<S> {
    access: Arc<Access>,
    inner: S,
}

type Request = http::Request<Body>;
type Response = http::Response<Body>;

impl<S> Service<Request> for GuardedCalls<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let rest = self.inner.clone();
        // The one that was asked whether it is ready.
        let mut inner = std::mem::replace(&mut self.inner, rest);
        let access = self.access.clone();
        Box::pin(async move {
            match access.admit(request).await {
                Ok((request, None)) => inner.call(request).await,
                Ok((request, Some(asked))) => {
                    let response = inner.call(request).await?;
                    Ok(access.answered(asked, response).await)
                }
                Err(e) => Ok(to_status(&e).into_http()),
            }
        })
    }
}

impl Access {
    /// What may go on; with the note of it when it is a change.
    async fn admit(&self, request: Request) -> Result<(Request, Option<Call>)> {
        let rpc = request.uri().path().to_owned();
        let changes = needs(&rpc).is_some_and(super::Needs::changes);
        let (caller, refused) = match self.caller(&request) {
            Ok(caller) => {
                let allowed = caller.may(&rpc);
                (caller, allowed.err())
            }
            Err(e) => (Caller::Nobody, Some(e)),
        };
        let Some(audit) = self.audit.as_ref().filter(|_| changes) else {
            if let Some(e) = refused {
                tracing::info!(who = caller.name(), rpc, why = e.chain(), "refused a call");
                return Err(e);
            }
            let mut request = only_own(&caller, request).await.inspect_err(|e| {
                tracing::info!(who = caller.name(), rpc, why = e.chain(), "refused a call");
            })?;
            request.extensions_mut().insert(caller);
            return Ok((request, None));
        };
        let from = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        let mut call = Call::new(&caller, from, &rpc);
        if let Some(e) = refused {
            tracing::info!(who = caller.name(), rpc, why = e.chain(), "refused a call");
            // Whoever is not known does not get anything read.
            if caller != Caller::Nobody
                && let Ok(body) = read(request.into_body(), REFUSED_MAX).await
            {
                call.request = described(&rpc, &body);
            }
            audit.refused(call, &e).await;
            return Err(e);
        }
        let (mut parts, body) = request.into_parts();
        let body = read(body, MESSAGE_MAX + 5).await?;
        call.request = described(&rpc, &body);
        // First of all: what cannot be noted down is not done.
        let asked = audit.asked(call).await?;
        parts.extensions.insert(caller);
        Ok((http::Request::from_parts(parts, Body::new(Full::new(body))), Some(asked)))
    }

    async fn answered(&self, call: Call, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        // Of one answer, which lies in memory already.
        let Ok(body) = body.collect().await else {
            return tonic::Status::internal("the answer broke").into_http();
        };
        let status = tonic::Status::from_header_map(&parts.headers)
            .or_else(|| body.trailers().and_then(tonic::Status::from_header_map))
            .filter(|status| status.code() != tonic::Code::Ok);
        let trailers = body.trailers().cloned();
        let bytes = body.to_bytes();
        if let Some(audit) = &self.audit {
            let operation = operation(&call.path, &bytes);
            audit.answered(call, status.map(palinurus_proto::from_status), operation).await;
        }
        let whole = Full::new(bytes).map_err(|never| match never {});
        let body = match trailers {
            Some(trailers) => Body::new(whole.with_trailers(async { Some(Ok(trailers)) })),
            None => Body::new(whole),
        };
        http::Response::from_parts(parts, body)
    }
}

/// A tenant's call that names a service names one of theirs.
async fn only_own(caller: &Caller, request: Request) -> Result<Request> {
    let sees = caller.sees();
    let Some(empty) = names_service(&request).filter(|_| !sees.is_all()) else { return Ok(request) };
    let (parts, body) = request.into_parts();
    let body = read(body, REFUSED_MAX).await?;
    sees.check(&body, empty)?;
    Ok(http::Request::from_parts(parts, Body::new(Full::new(body))))
}

async fn read(body: Body, most: usize) -> Result<Bytes> {
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, most).collect()).await;
    let read = read.map_err(|_| Error::unavailable("the call did not arrive in time"))?;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|e| Error::invalid("the call broke, or is too large").with_source(e.to_string()))
}
