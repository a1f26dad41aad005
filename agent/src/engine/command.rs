//! Runs an operator's command to its end, or to the end of its time.
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use palinurus_repository::group::{Group, read_tail};
use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

/// After its end, for what it left behind to close its output.
const DRAIN: Duration = Duration::from_secs(1);

/// How long a command may take, and the setting that says so.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Limit {
    pub(in crate::engine) time: Duration,
    pub(in crate::engine) setting: &'static str,
}

pub(in crate::engine) async fn run(
    argv: &[String],
    environment: &[(&str, &str)],
    limit: Limit,
    cancel: &CancellationToken,
) -> Result<()> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Error::internal("a command without a program"));
    };
    let mut group = Group::start(program, arguments, environment, Stdio::null())
        .map_err(|e| Error::io(format!("start {program:?}"), e))?;
    let stderr = group.stderr();
    let mut tail = Vec::new();
    let work = async {
        let mut read = std::pin::pin!(read_tail(stderr, &mut tail));
        let mut closed = false;
        let status = tokio::select! {
            biased;
            status = group.wait() => status,
            () = &mut read => {
                closed = true;
                group.wait().await
            }
        };
        if !closed {
            let _ = tokio::time::timeout(DRAIN, read).await;
        }
        status
    };
    let status = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            Err(Error::unavailable(format!("{program:?} was stopped: the task was cancelled")))
        }
        ended = tokio::time::timeout(limit.time, work) => match ended {
            Ok(status) => status.map_err(|e| Error::io(format!("wait for {program:?}"), e)),
            Err(_) => {
                let time = humantime::format_duration(limit.time);
                Err(Error::unavailable(format!("{program:?} did not end within {time}")).with_hint(format!(
                    "it was killed; see what it waits for, or raise engine.{}",
                    limit.setting
                )))
            }
        },
    };
    drop(group);
    match status? {
        status if status.success() => Ok(()),
        status => Err(failed(program, status, &tail)),
    }
}

fn failed(program: &str, status: ExitStatus, tail: &[u8]) -> Error {
    let said = String::from_utf8_lossy(tail);
    let said = said.trim();
    let error = Error::unavailable(format!("{program:?} ended with {status}"));
    if said.is_empty() { error } else { error.with_source(format!("it said: {said}")) }
}

#[cfg(test)]
mod tests {
    use palinurus_repository::group::SAID_MAX;
    use rustix::process::{Pid, Signal};
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

    async fn sh(script: &str, timeout: Duration, cancel: &CancellationToken) -> Result<()> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        run(&argv, &[("PALINURUS_OPERATION", "op1")], Limit { time: timeout, setting: "x" }, cancel).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn says_how_it_ended() {
        let never = CancellationToken::new();
        sh("test \"$PALINURUS_OPERATION\" = op1", LONG, &never).await.unwrap();
        let error = sh("yes noise | head -c 100000 >&2; echo last words >&2; exit 3", LONG, &never)
            .await
            .unwrap_err();
        assert!(error.what().contains("exit status: 3"), "{error:?}");
        assert!(error.chain().ends_with("last words") && error.chain().len() < SAID_MAX + 200, "{error:?}");
        let error = run(&["/no/such/program".to_owned()], &[], Limit { time: LONG, setting: "x" }, &never)
            .await
            .unwrap_err();
        assert!(error.what().contains("/no/such/program"));
    }

    #[tokio::test]
    async fn is_killed_with_all_it_started_when_time_is_up_or_nobody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        // The grandchild holds the FIFO open for writing: there is nothing to read while it lives, and an end without it.
        let script = format!("sleep 600 >{} & sleep 600", fifo.display());
        let mut reader = std::fs::File::options().read(true).custom_flags(NONBLOCK).open(&fifo).unwrap();
        let mut lives = || match std::io::Read::read(&mut reader, &mut [0]) {
            Ok(read) => read > 0,
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        };

        let cancel = CancellationToken::new();
        let cancelling = async {
            while !lives() {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(sh(&script, LONG, &cancel), cancelling);
        let error = ended.unwrap_err();
        assert!(error.what().contains("cancelled"), "{error:?}");
        while lives() {
            tokio::task::yield_now().await;
        }

        // Until its time is up when all of it runs, however slowly that starts.
        let never = CancellationToken::new();
        let mut time = Duration::from_millis(300);
        loop {
            let mut lived = false;
            let looking = async {
                loop {
                    lived |= lives();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let error = tokio::select! {
                ended = sh(&script, time, &never) => ended.unwrap_err(),
                () = looking => unreachable!(),
            };
            let said = humantime::format_duration(time).to_string();
            assert!(error.what().contains(&said), "{error:?}");
            while lives() {
                tokio::task::yield_now().await;
            }
            if lived {
                break;
            }
            time *= 4;
        }
    }

    #[tokio::test]
    async fn a_daemon_it_leaves_behind_does_not_hold_us() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! >{}", pid.display());
        sh(&script, LONG, &CancellationToken::new()).await.unwrap();
        let pid: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
}
