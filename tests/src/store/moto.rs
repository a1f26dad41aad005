//! moto: a second S3, in memory. It believes any credentials, but keeps conditions.
use super::{BUCKET, Left, Server, aws_credentials, command, directory, free_ports, local, tool};
use crate::process::Process;

impl Server {
    pub async fn moto() -> Self {
        let dir = directory();
        let [port] = free_ports();
        let mut moto = command(tool("venv/bin/moto_server"));
        moto.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("HOME", dir.path());
        let process = Process::start("moto", moto, &dir.path().join("log"));
        let credentials = aws_credentials(dir.path(), "any", "any");
        let settings = format!("endpoint=ENDPOINT&credentials={}", credentials.display());
        let mut server = Self {
            address: local(port),
            https: None,
            scheme: "s3",
            container: BUCKET,
            settings,
            process,
            _door: None,
            _left: Left::default(),
            dir,
        };
        server.answers("GET", "/moto-api/", "200").await;
        server.answers("PUT", &format!("/{BUCKET}"), "200").await;
        server
    }
}
