//! Azurite: Microsoft's own stand-in for Azure's blob store.
use super::tls::Ca;
use super::{BUCKET, Left, Server, command, directory, free_ports, local, tool};
use crate::process::Process;

/// The account and key that Azurite is documented to have.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Signed by hand: no tool at hand makes one.
const MAKE_CONTAINER: &str = r#"
const [address, account, key, container] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2021-08-06";
const text = "PUT" + "\n".repeat(12) + `x-ms-date:${date}\nx-ms-version:${version}\n` +
  `/${account}/${account}/${container}\nrestype:container`;
const sign = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
fetch(`${address}/${account}/${container}?restype=container`, { method: "PUT", headers: {
  "x-ms-date": date, "x-ms-version": version, "authorization": `SharedKey ${account}:${sign}` } })
  .then(async (answer) => { if (answer.status !== 201) { console.error(await answer.text()); process.exit(1); } });
"#;

impl Server {
    pub async fn azurite() -> Self {
        let mut server = Self::azurite_in(None);
        server.answers("GET", "/", "400").await;
        server.make_container("http");
        server
    }

    /// Only at [`Server::https_url`], with a certificate of that CA's.
    pub async fn azurite_with_tls(ca: &Ca) -> Self {
        let mut server = Self::azurite_in(Some(ca));
        server.listens().await;
        server.make_container("https");
        server
    }

    fn azurite_in(ca: Option<&Ca>) -> Self {
        let dir = directory();
        let [port] = free_ports();
        let mut azurite = command("node");
        azurite.arg(tool("azurite/node_modules/.bin/azurite-blob"));
        azurite.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent"]);
        azurite.args(["--disableTelemetry", "--skipApiVersionCheck", "--location"]).arg(dir.path());
        if let Some(ca) = ca {
            azurite.arg("--cert").arg(&ca.certificate).arg("--key").arg(&ca.key);
        }
        azurite.env("HOME", dir.path());
        let process = Process::start("azurite", azurite, &dir.path().join("log"));
        let credentials = dir.path().join("credentials");
        std::fs::write(&credentials, format!("# account\nazure_storage_account_key = {KEY}\n")).unwrap();
        let settings =
            format!("account={ACCOUNT}&endpoint=ENDPOINT/{ACCOUNT}&credentials={}", credentials.display());
        Self {
            address: local(port),
            https: ca.map(|_| local(port)),
            scheme: "az",
            container: BUCKET,
            settings,
            process,
            _door: None,
            _left: Left::default(),
            dir,
        }
    }

    fn make_container(&self, scheme: &str) {
        let mut node = command("node");
        node.env("NODE_TLS_REJECT_UNAUTHORIZED", "0");
        let address = format!("{scheme}://{}", self.address);
        let made = node.args(["-e", MAKE_CONTAINER, &address, ACCOUNT, KEY, BUCKET]).output().unwrap();
        assert!(made.status.success(), "no container: {}", String::from_utf8_lossy(&made.stderr));
    }
}
