//! A receiver of webhooks, in this process.
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// What comes of the next requests, and then of all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    Fails,
    /// Closes the connection in place of an answer.
    Closes,
    /// Keeps the connection, and never answers.
    Silent,
}

#[derive(Clone)]
pub(super) struct Got {
    pub(super) body: Bytes,
    pub(super) timestamp: String,
    pub(super) signature: String,
    pub(super) id: String,
    pub(super) accepted: bool,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Seen {
    first: Vec<Answer>,
    then: Option<Answer>,
    got: Vec<Got>,
}

pub(super) struct Receiver {
    pub(super) url: String,
    seen: Arc<Mutex<Seen>>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    pub(super) async fn new(first: &[Answer], then: Answer) -> Self {
        Self::listening(first, then, None).await
    }

    pub(super) async fn encrypted(first: &[Answer], then: Answer, tls: TlsAcceptor) -> Self {
        Self::listening(first, then, Some(tls)).await
    }

    async fn listening(first: &[Answer], then: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen { first: first.to_vec(), then: Some(then), got: Vec::new() }));
        let shared = seen.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, seen, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn from_now_on(&self, answer: Answer) {
        self.seen.lock().unwrap().then = Some(answer);
    }

    pub(super) fn got(&self) -> Vec<Got> {
        self.seen.lock().unwrap().got.clone()
    }

    pub(super) fn accepted(&self) -> Vec<Got> {
        self.got().into_iter().filter(|got| got.accepted).collect()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Mutex<Seen>>) {
    let answer = |request| answer(request, seen.clone());
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    };
    let (timestamp, signature) = (header("palinurus-timestamp"), header("palinurus-signature"));
    let id = header("palinurus-notice");
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let answer = {
        let mut seen = seen.lock().unwrap();
        let answer = if seen.first.is_empty() { seen.then.unwrap() } else { seen.first.remove(0) };
        seen.got.push(Got { body, timestamp, signature, id, accepted: answer == Answer::Good });
        answer
    };
    let status = |status| {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = status;
        response
    };
    match answer {
        Answer::Good => Ok(status(StatusCode::NO_CONTENT)),
        Answer::Fails => Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
        Answer::Closes => Err(std::io::Error::other("closed")),
        Answer::Silent => Ok(std::future::pending::<Result<_, Infallible>>().await.unwrap()),
    }
}
