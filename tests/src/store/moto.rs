//! moto: a second S3, in memory. It believes any credentials, but keeps conditions.
use super::{BUCKET, Server, command, directory, free_ports, tool};
use crate::process::Process;

impl Server {
    pub async fn moto() -> Self {
        let dir = directory();
        let [port] = free_ports();
        // By its interpreter: a venv that was moved names another place in its programs.
        let mut moto = command(tool("venv/bin/python3"));
        moto.arg(tool("venv/bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("HOME", dir.path());
        let process = Process::start("moto", moto, &dir.path().join("log"));
        let mut server = Self::plain_s3(process, dir, port, ["any", "any"]);
        server.answers("GET", "/moto-api/", "200").await;
        server.answers("PUT", &format!("/{BUCKET}"), "200").await;
        server
    }
}
