//! Numbers for Prometheus: a page of them, and the small HTTP endpoint that serves it. What is in a page is its maker's:
//! numbers, and names that operators gave; never a path, a URL or anything else that could hold a secret.
use std::convert::Infallible;
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use palinurus_repository::storage::Requests;
use palinurus_repository::{Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Scrapes at once; more are hung up on.
const AT_ONCE: usize = 8;
/// From a connection to the end of its one answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Of what a client may send.
const HEAD_MAX: usize = 16 << 10;
/// How long to wait when no connection can be taken: descriptors may have run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Text in Prometheus' format.
#[derive(Debug, Default)]
pub struct Page(String);

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Counter,
    Gauge,
}

impl Page {
    /// Before the first sample of that name.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{escaped}\"", if i == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    pub fn build(&mut self, version: &str) {
        self.family("palinurus_build_info", Kind::Gauge, "Always 1; the version is a label.");
        self.sample("palinurus_build_info", &[("version", version)], 1);
    }

    /// What each service's store was asked by this process. Each line begins again at 0 when its repository is opened
    /// again, as counters may.
    pub fn requests(&mut self, services: &[(String, Requests)]) {
        const REQUESTS: &str = "palinurus_store_requests_total";
        self.family(REQUESTS, Kind::Counter, "Requests to the object store, retries included.");
        for (service, asked) in services {
            let kinds = [
                ("put", asked.puts),
                ("get", asked.gets),
                ("head", asked.sizes),
                ("list", asked.lists),
                ("delete", asked.deletes),
            ];
            for (kind, count) in kinds {
                self.sample(REQUESTS, &[("service", service), ("request", kind)], count);
            }
        }
        const RETRIES: &str = "palinurus_store_retries_total";
        self.family(RETRIES, Kind::Counter, "How many of the requests were second and later tries.");
        for (service, asked) in services {
            self.sample(RETRIES, &[("service", service)], asked.retries);
        }
        const BYTES: &str = "palinurus_store_bytes_total";
        self.family(BYTES, Kind::Counter, "Bytes of objects sent to the object store and received from it.");
        for (service, asked) in services {
            self.sample(BYTES, &[("service", service), ("direction", "sent")], asked.bytes_put);
            self.sample(BYTES, &[("service", service), ("direction", "received")], asked.bytes_got);
        }
        const DELETED: &str = "palinurus_store_objects_deleted_total";
        self.family(DELETED, Kind::Counter, "Objects that deletes named.");
        for (service, asked) in services {
            self.sample(DELETED, &[("service", service)], asked.deleted);
        }
    }
}

/// Serves `GET /metrics` until cancelled; the address is written to `address_file` for who asked for port 0. Without
/// TLS and open to whoever reaches the port.
pub async fn serve<F, P>(
    wanted: &str,
    address_file: &Path,
    cancel: CancellationToken,
    page: F,
) -> Result<SocketAddr>
where
    F: Fn() -> P + Send + Sync + 'static,
    P: Future<Output = Page> + Send + 'static,
{
    let failed = |e| {
        Error::io(format!("serve metrics on {wanted}"), e)
            .with_hint("metrics = \"127.0.0.1:9410\", or leave it out")
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tokio::fs::write(address_file, format!("{address}\n")).await.map_err(failed)?;
    tracing::info!(%address, "serves metrics");
    tokio::spawn(accept(listener, cancel, Arc::new(page)));
    Ok(address)
}

async fn accept<F, P>(listener: TcpListener, cancel: CancellationToken, page: Arc<F>)
where
    F: Fn() -> P + Send + Sync + 'static,
    P: Future<Output = Page> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let Ok(turn) = turns.clone().try_acquire_owned() else { continue };
        let (page, cancel) = (page.clone(), cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                _ = tokio::time::timeout(WITHIN, answer(stream, page)) => {} // who is slow asks again
            }
            drop(turn);
        });
    }
}

async fn answer<F, P>(stream: TcpStream, page: Arc<F>) -> hyper::Result<()>
where
    F: Fn() -> P + Send + Sync + 'static,
    P: Future<Output = Page> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let page = page.clone();
        async move {
            let body = match (request.method(), request.uri().path()) {
                (&Method::GET, "/metrics") => Ok((*page)().await.0),
                (_, "/metrics") => Err(StatusCode::METHOD_NOT_ALLOWED),
                _ => Err(StatusCode::NOT_FOUND),
            };
            let (status, body) = match body {
                Ok(body) => (StatusCode::OK, body),
                Err(status) => (status, "GET /metrics\n".to_owned()),
            };
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers
                .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; version=0.0.4"));
            if status == StatusCode::METHOD_NOT_ALLOWED {
                headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(HEAD_MAX).serve_connection(TokioIo::new(stream), service).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family("up", Kind::Gauge, "Whether.");
        page.sample("up", &[("a", "x\"y\\z\n"), ("b", "")], 1);
        page.sample("up", &[], 0.5);
        assert_eq!(
            page.0,
            "# HELP up Whether.\n# TYPE up gauge\nup{a=\"x\\\"y\\\\z\\n\",b=\"\"} 1\nup 0.5\n"
        );
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await; // cut short is an answer too
        answer
    }

    #[tokio::test]
    async fn only_the_page_is_served_and_floods_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metrics");
        let cancel = CancellationToken::new();
        let page = || async {
            let mut page = Page::default();
            page.build("1");
            page
        };
        let address = serve("127.0.0.1:0", &file, cancel.clone(), page).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{address}\n"));
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let found = ask(address, &get("/metrics")).await;
        assert!(
            found.starts_with("HTTP/1.1 200") && found.contains("palinurus_build_info{version=\"1\"} 1\n")
        );
        assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEAD_MAX));
        assert!(!ask(address, &long).await.contains("200 OK"));
        assert!(serve(&address.to_string(), &file, cancel.clone(), page).await.is_err());
        cancel.cancel();
    }
}
