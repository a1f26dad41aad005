//! Dialling the coordinator.
use std::net::IpAddr;
use std::time::Duration;

use palinurus_proto::v1::coordinator_client::CoordinatorClient;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Global;

const MESSAGE_MAX: usize = 64 << 20;

pub(crate) type Client = CoordinatorClient<Channel>;

/// Connects now, so that a wrong address is said before anything else is done.
pub(crate) async fn connect(global: &Global) -> Result<Client> {
    dial(&global.server, global.insecure_plaintext).await
}

pub(crate) async fn dial(server: &str, insecure_plaintext: bool) -> Result<Client> {
    let uri: Uri = server.parse().map_err(|error| {
        Error::invalid(format!("{server:?} is not an address of a coordinator"))
            .with_source(error)
            .with_hint("write it as http://127.0.0.1:7410")
    })?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err(Error::invalid(format!("{server:?} is not an address of a coordinator"))
            .with_hint("write it as http://127.0.0.1:7410"));
    }
    if !insecure_plaintext && !is_loopback(&uri) {
        return Err(Error::denied(format!("{server} is another machine and nothing would be encrypted"))
            .with_hint("run the command there, or say --insecure-plaintext on a network that you trust"));
    }
    let channel = Endpoint::from(uri)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .connect()
        .await
        .map_err(|error| {
            Error::unavailable(format!("no coordinator answers at {server}"))
                .with_source(error)
                .with_hint("start one with `palinurus up --data DIR`, or name another with --server")
        })?;
    Ok(Client::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX))
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The named service, or the only one there is.
pub(crate) async fn service(client: &mut Client, named: Option<String>) -> Result<String> {
    if let Some(name) = named {
        return Ok(name);
    }
    let reply = client.list_services(v1::ListServicesRequest {}).await.map_err(from_status)?.into_inner();
    let mut names = reply.services.into_iter().map(|service| service.name);
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::not_found("the coordinator has no service yet")
            .with_hint("describe one in a file and run `palinurus service apply FILE`")),
        (Some(_), Some(_)) => Err(Error::invalid("the coordinator has several services")
            .with_hint("say which with --service; `palinurus service list` shows them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (uri, loopback) in [
            ("http://127.0.0.1:7410", true),
            ("http://localhost:1", true),
            ("http://[::1]:7410", true),
            ("http://10.0.0.1:7410", false),
            ("http://localhost.example:7410", false),
        ] {
            assert_eq!(is_loopback(&uri.parse().unwrap()), loopback, "{uri}");
        }
    }
}
