//! The `palinurus` binary as child processes.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The binary built from this tree, beside the running test. Built here once more, for `cargo test -p` alone
/// would run yesterday's. `TEST_BINARY` names another: for long runs beside a tree that changes.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(named) = std::env::var_os("TEST_BINARY") {
            return named.into();
        }
        let profile = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        // What cargo told the test about its own package would look like a change to build scripts.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_BIN_",
                "CARGO_CRATE_",
                "CARGO_PRIMARY_",
                "CARGO_TARGET_TMPDIR",
            ]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            {
                build.env_remove(name);
            }
        }
        let status =
            build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).status().unwrap();
        assert!(status.success(), "the workspace does not build");
        profile.join("palinurus")
    })
}

/// `palinurus` with nothing of the caller's configuration.
pub fn palinurus() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PALINURUS_"))
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A process that is killed when the test ends, whichever way.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub log: PathBuf,
    child: Child,
}

impl Process {
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { name: name.to_owned(), log: log.to_owned(), child }
    }

    /// kill -9.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// kill -9 of it and of what it has started, as when its machine dies: nothing that it began goes on without it.
    pub fn kill_with_children(self) {
        self.pause();
        let children = children(self.pid());
        for child in children.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
            let _ = kill_process(child, Signal::KILL);
        }
        self.kill();
    }

    /// SIGSTOP: it stands still, and knows nothing of it.
    pub fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// SIGQUIT, and kill -9 if that takes long: for a server that leaves shared memory behind when it is just killed.
    pub fn quit(mut self) {
        for signal in [Signal::CONT, Signal::QUIT] {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
        for _ in 0..1000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and the process's end awaited.
    pub async fn terminate(self) -> std::process::ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.ended().await
    }

    /// Its end awaited.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        for _ in 0..2400 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} did not end:\n{}", self.name, self.log_text());
    }

    /// Panics with its log when it has ended by itself.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended by itself ({status}):\n{}", self.name, self.log_text());
        }
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

pub fn children(pid: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &pid.to_string()]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log_text();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("-- the end of {}'s log:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
