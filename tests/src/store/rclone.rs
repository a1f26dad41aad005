//! `rclone serve s3`: a store that lets two creators of one object both win.
use super::{BUCKET, Server, command, directory, free_ports, local, tool};
use crate::process::Process;

impl Server {
    pub async fn rclone() -> Self {
        let dir = directory();
        let [port] = free_ports();
        let objects = dir.path().join("objects");
        std::fs::create_dir_all(objects.join(BUCKET)).unwrap();
        std::fs::write(dir.path().join("rclone.conf"), "").unwrap();
        let mut rclone = command(tool("venv/bin/rclone"));
        rclone.arg("--config").arg(dir.path().join("rclone.conf")).args(["serve", "s3"]).arg(&objects);
        rclone.args(["--addr", &local(port).to_string(), "--auth-key", "labkey,labsecret"]);
        rclone.env("HOME", dir.path());
        let process = Process::start("rclone", rclone, &dir.path().join("log"));
        let mut server = Self::plain_s3(process, dir, port, ["labkey", "labsecret"]);
        server.answers("GET", "/", "400").await;
        server
    }
}
