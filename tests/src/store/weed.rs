//! SeaweedFS: the S3 server that the tests take for the truth.
use std::path::Path;

use serde_json::json;

use super::tls::Ca;
use super::{BUCKET, Left, Server, aws_credentials, command, directory, free_ports, local, tool};
use crate::process::Process;

/// What runs in one process, the S3 door first.
const PARTS: [&str; 5] = ["s3", "master", "volume", "filer", "admin"];

impl Server {
    pub async fn weed() -> Self {
        Self::weed_in(directory(), None, None).await
    }

    /// With users of these names, each of the secret `hunter2`, who may do so much.
    pub async fn weed_with_identities(users: &[(&str, &[&str])]) -> Self {
        let dir = directory();
        let user = |(name, secret, actions): (&str, &str, &[&str])| json!({"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions});
        let all = ["Admin", "Read", "Write", "List", "Tagging"];
        let users = users.iter().map(|(name, actions)| user((name, "hunter2", actions)));
        let users = users.chain([user(("labkey", "labsecret", &all))]);
        let config = dir.path().join("identities.json");
        std::fs::write(&config, json!({"identities": users.collect::<Vec<_>>()}).to_string()).unwrap();
        Self::weed_in(dir, Some(&config), None).await
    }

    /// Also at [`Server::https_url`], with a certificate of that CA's.
    pub async fn weed_with_tls(ca: &Ca) -> Self {
        Self::weed_in(directory(), None, Some(ca)).await
    }

    async fn weed_in(dir: tempfile::TempDir, identities: Option<&Path>, ca: Option<&Ca>) -> Self {
        let ports: [u16; 2 * PARTS.len()] = free_ports();
        let (http, grpc) = ports.split_at(PARTS.len());
        let mut mini = command(tool("venv/bin/weed"));
        mini.env("HOME", dir.path());
        mini.args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        mini.arg(format!("-dir={}", dir.path().display())).arg(format!("-bucket={BUCKET}"));
        let [https] = free_ports();
        if let Some(ca) = ca {
            mini.arg(format!("-s3.port.https={https}"));
            mini.arg(format!("-s3.cert.file={}", ca.certificate.display()));
            mini.arg(format!("-s3.key.file={}", ca.key.display()));
        }
        let mut sockets = Vec::new();
        for ((part, http), grpc) in PARTS.iter().zip(http).zip(grpc) {
            mini.arg(format!("-{part}.port={http}")).arg(format!("-{part}.port.grpc={grpc}"));
            sockets.push(format!("/tmp/seaweedfs-{part}-{http}.sock").into());
            sockets.push(format!("/tmp/seaweedfs-{part}-grpc-{grpc}.sock").into());
        }
        mini.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]);
        mini.arg("-master.telemetry=false");
        match identities {
            Some(config) => mini.arg(format!("-s3.config={}", config.display())),
            None => mini.env("AWS_ACCESS_KEY_ID", "labkey").env("AWS_SECRET_ACCESS_KEY", "labsecret"),
        };
        let process = Process::start("weed", mini, &dir.path().join("log"));
        let credentials = aws_credentials(dir.path(), "labkey", "labsecret");
        let settings = format!("endpoint=ENDPOINT&credentials={}", credentials.display());
        let mut server = Self {
            address: local(http[0]),
            https: ca.map(|_| local(https)),
            scheme: "s3",
            container: BUCKET,
            settings,
            process,
            _door: None,
            _left: Left(sockets),
            dir,
        };
        server.answers("GET", "/healthz", "200").await;
        server.takes_objects().await;
        server
    }
}
