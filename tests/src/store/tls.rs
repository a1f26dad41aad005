//! A CA that nobody knows, and a server's certificate for 127.0.0.1 that it signed. Made by `openssl`.
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug)]
pub struct Ca {
    pub root: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    _dir: tempfile::TempDir,
}

impl Ca {
    pub fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
        let new = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
        openssl(dir.path(), &format!("req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=nobody"));
        openssl(dir.path(), &format!("req {new} -keyout key.pem -out request -subj /CN=store"));
        openssl(
            dir.path(),
            "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out certificate.pem",
        );
        Self { root: path("ca.pem"), certificate: path("certificate.pem"), key: path("key.pem"), _dir: dir }
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let made = made.expect("openssl is missing: tests/run installs it");
    assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
}
