//! SeaweedFS: the S3 server that the tests take for the truth.
use std::path::Path;

use serde_json::json;

use super::{BUCKET, Server, aws_credentials, command, directory, free_ports, local, tool};
use crate::process::Process;

impl Server {
    pub async fn weed() -> Self {
        Self::weed_in(directory(), None).await
    }

    /// With users of these names, each of the secret `hunter2`, who may do so much.
    pub async fn weed_with_identities(users: &[(&str, &[&str])]) -> Self {
        let dir = directory();
        let users = users.iter().map(|(name, actions)| {
            json!({"name": name, "credentials": [{"accessKey": name, "secretKey": "hunter2"}], "actions": actions})
        });
        let config = dir.path().join("identities.json");
        std::fs::write(&config, json!({"identities": users.collect::<Vec<_>>()}).to_string()).unwrap();
        Self::weed_in(dir, Some(&config)).await
    }

    async fn weed_in(dir: tempfile::TempDir, identities: Option<&Path>) -> Self {
        let ports: [u16; 8] = free_ports();
        let [master, volume, filer, s3, grpc @ ..] = ports;
        let mut mini = command(tool("venv/bin/weed"));
        mini.env("HOME", dir.path());
        mini.args(["-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        mini.arg(format!("-dir={}", dir.path().display())).arg(format!("-bucket={BUCKET}"));
        for (name, port) in [("master", master), ("volume", volume), ("filer", filer), ("s3", s3)] {
            mini.arg(format!("-{name}.port={port}"));
        }
        for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(grpc) {
            mini.arg(format!("-{name}.port.grpc={port}"));
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
        let mut server = Self { address: local(s3), scheme: "s3", container: BUCKET, settings, process, dir };
        server.answers("GET", "/healthz", "200").await;
        server
    }
}
