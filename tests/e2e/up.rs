//! The README's quick start, what grpcurl sees, and who is let in.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use palinurus_identity::{Authority, Issued, Role, Shown, VALID, Who};
use palinurus_repository::{Clock, SystemClock, SystemEntropy, Timestamp};
use palinurus_tests::compare;
use palinurus_tests::process::{Process, palinurus};
use palinurus_tests::world::{Ran, run, wait, wait_async};

/// A home in which nobody has been: nothing of the developer's own is found.
struct Home {
    dir: tempfile::TempDir,
    starts: usize,
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap(), starts: 0 };
        fs::create_dir(home.data()).unwrap();
        fs::write(home.data().join("file"), "content").unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn state(&self) -> PathBuf {
        self.path("state/palinurus")
    }

    fn certs(&self, name: &str) -> PathBuf {
        self.state().join("certs").join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = palinurus();
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_CONFIG_HOME", self.path("config"));
        command.env("HOME", self.dir.path()).args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(&[&["--json"], arguments].concat())).await
    }

    fn up(&self, more: &[&str]) -> Command {
        let mut command = self.command(&["up", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(self.data()).args(more);
        command
    }

    /// Until it says what to do next.
    async fn start(&mut self, more: &[&str]) -> Process {
        self.starts += 1;
        let log = self.path(&format!("up-{}.log", self.starts));
        let mut process = Process::start("up", self.up(more), &log);
        wait("up says what to do next", || {
            process.check();
            process.log_text().contains("backup start").then_some(())
        })
        .await;
        process
    }

    fn address(&self) -> String {
        fs::read_to_string(self.state().join("coordinator/address")).unwrap().trim().to_owned()
    }

    async fn joined(&self, of: &[&str]) {
        wait_async("the node joins", async || {
            let nodes = self.run(&[of, &["node", "list"]].concat()).await.expect(0).json();
            (nodes["nodes"][0]["connected"] == true).then_some(())
        })
        .await;
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn grpcurl(arguments: &[&str]) -> Command {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/tools/grpcurl");
    assert!(tool.exists(), "tests/run puts grpcurl at {}", tool.display());
    let mut command = Command::new(tool);
    command.args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_and_grpcurl() {
    let mut home = Home::new();
    let none = home.run(&["backup", "list"]).await.expect(2);
    assert!(none.stderr.contains("palinurus up"), "{}", none.stderr);
    let process = home.start(&[]).await;
    let said = process.log_text();
    assert!(said.contains("operator.key"), "where the key is:\n{said}");
    assert!(said.contains("\n  palinurus backup start\n"), "it is found by itself:\n{said}");
    home.joined(&[]).await;

    // A second one of the same state is told so.
    let second = run(home.up(&[])).await;
    assert_eq!(second.code, 4, "{}", second.stderr);
    assert!(second.stderr.contains("hint"), "{}", second.stderr);

    let backup = home.run(&["backup", "start"]).await.expect(0).json();
    assert_eq!(backup["state"], "succeeded");
    let listed = home.run(&["backup", "list"]).await.expect(0).json();
    assert_eq!(listed["backups"][0]["id"], backup["backup"]);

    let (address, ca) = (home.address(), home.certs("ca.pem"));
    let (certificate, key) = (home.certs("operator-local.pem"), home.certs("operator-local.key"));
    let shown = ["-cacert", text(&ca), "-cert", text(&certificate), "-key", text(&key), &address];
    let services = run(grpcurl(&[&shown[..], &["list"]].concat())).await.expect(0).stdout;
    for service in ["palinurus.v1.Coordinator", "palinurus.v1.Fleet", "grpc.health.v1.Health"] {
        assert!(services.lines().any(|line| line == service), "{service} is not in\n{services}");
    }
    let list = "palinurus.v1.Coordinator/ListBackups";
    let backups = run(grpcurl(&[&shown[..], &[list]].concat())).await.expect(0).json();
    assert_eq!(backups["backups"][0]["id"], backup["backup"]);

    fs::rename(home.data(), home.path("want")).unwrap();
    fs::create_dir(home.data()).unwrap();
    wait_async("the node is seen to be empty", async || {
        let nodes = home.run(&["node", "list"]).await.expect(0).json();
        (nodes["nodes"][0]["data_empty"] == true).then_some(())
    })
    .await;
    home.run(&["restore", "apply", "--yes"]).await.expect(0);
    compare::assert_equal(&home.path("want"), &home.data(), &[]);

    let status = process.terminate().await;
    assert!(status.success(), "{status}");
    let away = home.run(&["node", "list"]).await.expect(5);
    assert!(away.stderr.contains("palinurus up"), "{}", away.stderr);

    // And again on the same state: the backup is still there, and whoever was known is known.
    let files =
        ["ca.pem", "ca.key", "coordinator-local.pem", "agent-local@default.key", "operator-local.pem"];
    let before = files.map(|name| fs::read(home.certs(name)).unwrap());
    let _process = home.start(&[]).await;
    assert_eq!(files.map(|name| fs::read(home.certs(name)).unwrap()), before);
    assert_eq!(home.run(&["backup", "list"]).await.expect(0).json()["backups"][0]["id"], backup["backup"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_plain_text_are_refused() {
    let mut home = Home::new();
    let _process = home.start(&[]).await;
    let (plain, server) = (format!("http://{}", home.address()), format!("https://{}", home.address()));
    let ca = home.certs("ca.pem");
    let refused = home.run(&["--server", &plain, "node", "list"]).await.expect(2);
    assert!(refused.stderr.contains("encrypts"), "{}", refused.stderr);
    // Other people's programs end too. An old one hangs now and then when it is told in another way: hence so many.
    let address = home.address();
    for _ in 0..3 {
        let plain = (0..8).map(|_| run(grpcurl(&["-plaintext", &address, "list"])));
        for plain in join_all(plain).await {
            assert_ne!(plain.code, 0, "{}", plain.stdout);
        }
    }
    let nobody = home.run(&["--server", &server, "--ca", text(&ca), "node", "list"]).await.expect(7);
    assert!(nobody.stderr.contains("wants a certificate"), "{}", nobody.stderr);
    // Another authority's, of the same name and role.
    let other = home.path("other");
    Authority::init(&other, VALID, SystemClock.now(), &SystemEntropy::new()).unwrap();
    let Issued { certificate, key } =
        Authority::open(&other).unwrap().issue(&local(), &[], VALID / 2, SystemClock.now(), false).unwrap();
    let pair = ["--cert", text(&certificate), "--cert-key", text(&key), "node", "list"];
    let stranger = home.run(&[&["--server", &server, "--ca", text(&ca)], &pair[..]].concat()).await.expect(7);
    assert!(stranger.stderr.contains("another authority"), "{}", stranger.stderr);
    let ca = other.join("ca.pem");
    let fooled = home.run(&[&["--server", &server, "--ca", text(&ca)], &pair[..]].concat()).await.expect(7);
    assert!(fooled.stderr.contains("not ours"), "{}", fooled.stderr);
    let audit = fs::read_to_string(home.state().join("coordinator/audit.log")).unwrap();
    assert!(audit.contains("certificate") && !audit.contains("plaintext"), "{audit}");
}

fn local() -> Who {
    Who::Operator { name: "local".into(), role: Role::Admin }
}

/// What lies about for a year, or on a bad disk.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_no_good_are_renewed_and_an_authority_is_not() {
    let mut home = Home::new();
    assert!(home.start(&[]).await.terminate().await.success());
    for name in ["", "ca.key", "coordinator-local.key", "agent-local@default.key", "operator-local.key"] {
        let mode = fs::metadata(home.certs(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if name.is_empty() { 0o700 } else { 0o600 }, "{name:?}");
    }
    let authority = Authority::open(&home.certs("")).unwrap();
    let long_ago = Timestamp(SystemClock.now().0 - 10 * 24 * 3600 * 1000);
    authority.issue(&local(), &[], Duration::from_secs(3600), long_ago, true).unwrap();
    assert!(Shown::read(&home.certs("operator-local.pem")).unwrap().remains(SystemClock.now()).is_none());
    fs::write(home.certs("coordinator-local.pem"), "damaged").unwrap();
    fs::remove_file(home.certs("agent-local@default.key")).unwrap();
    let process = home.start(&[]).await;
    for said in ["local: it had expired", "coordinator local: ", "agent default/local: there was none"] {
        assert!(process.log_text().contains(said), "{said}:\n{}", process.log_text());
    }
    home.joined(&[]).await;
    home.run(&["backup", "start"]).await.expect(0);

    // What is damaged while it runs is said by whoever reads it, and mended at the next start.
    fs::write(home.certs("operator-local.pem"), "damaged").unwrap();
    let damaged = home.run(&["backup", "list"]).await.expect(2);
    assert!(damaged.stderr.contains("operator-local.pem"), "{}", damaged.stderr);
    assert!(process.terminate().await.success());
    assert!(home.start(&[]).await.terminate().await.success());
    home.run(&["backup", "list"]).await.expect(5);

    fs::set_permissions(home.certs("operator-local.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let read = run(home.up(&[])).await.expect(7);
    assert!(read.stderr.contains("operator-local"), "{}", read.stderr);
    fs::remove_file(home.certs("operator-local.key")).unwrap();

    fs::write(home.certs("ca.key"), "damaged").unwrap();
    let refused = run(home.up(&[])).await;
    assert!(refused.code != 0 && refused.stderr.contains("move"), "{}", refused.stderr);
    fs::rename(home.certs(""), home.path("away")).unwrap();
    let _process = home.start(&[]).await;
    home.joined(&[]).await;
    assert_eq!(home.run(&["backup", "list"]).await.expect(0).json()["backups"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_state_is_named_and_plain_text_asked_for() {
    let mut home = Home::new();
    let state = home.path("elsewhere");
    let of = ["--state", text(&state)].map(str::to_owned);
    let of: Vec<&str> = of.iter().map(String::as_str).collect();
    let process = home.start(&of).await;
    let typed = format!("palinurus --state {} backup start", state.display());
    assert!(process.log_text().contains(&typed), "{}", process.log_text());
    home.joined(&of).await;
    home.run(&["backup", "list"]).await.expect(2);
    // What the environment says is of another coordinator.
    let mut command = home.command(&["--json", "backup", "list", "--state", text(&state)]);
    command.env("PALINURUS_SERVER", "https://127.0.0.1:1").env("PALINURUS_TOKEN", "not a token");
    run(command).await.expect(0);
    assert!(process.terminate().await.success());

    let process = home.start(&["--insecure-plaintext"]).await;
    let server = format!("http://{}", home.address());
    assert!(process.log_text().contains(&format!("palinurus --server {server} backup start")));
    assert!(process.log_text().contains("nothing is encrypted"), "{}", process.log_text());
    assert!(!home.certs("").exists());
    home.run(&["--server", &server, "node", "list"]).await.expect(0);
    home.run(&["node", "list"]).await.expect(2);
    for listen in ["0.0.0.0:0", "10.0.0.1:7410"] {
        for plain in [&[][..], &["--insecure-plaintext"]] {
            let mut command = home.command(&["up", "--listen", listen, "--data"]);
            command.arg(home.data()).args(plain);
            assert_eq!(run(command).await.code, 7, "{listen}");
        }
    }
}
