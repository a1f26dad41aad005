//! Where the commands beside the database ask: a socket in the state directory, for the database's own user.
//!
//! ```text
//! asked     get <name>\n   push <name> <length> <digest: hex> <its first bytes: hex>\n
//! answered  0 <length>\n<bytes>   1\n   200 <why>\n
//! ```
use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use crate::engine::{LogFile, Logs};
use crate::host::Host;

/// A file each, in memory.
const AT_ONCE: usize = 4;
const LINE_MAX: u64 = 1024;
/// For a line that was begun, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn path(state: &Path) -> PathBuf {
    state.join("log.sock")
}

/// Until cancelled, where the engine has logs. Without it nothing recovers along a log; all else goes on.
pub(crate) async fn serve(host: Arc<Host>, cancel: CancellationToken) {
    let Some(logs) = host.engine.logs() else { return };
    let listener = match listen(&host) {
        Ok(listener) => listener,
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            return tracing::warn!(error = %error.chain(), hint, "no database can ask for log files");
        }
    };
    let files = Arc::new(Files::new(Arc::clone(&host), logs, host.state.path().to_owned()));
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        never = give_out(&listener, &files) => match never {},
    }
    let _ = std::fs::remove_file(path(host.state.path()));
}

/// Until dropped.
pub(super) async fn give_out(listener: &UnixListener, files: &Arc<Files>) -> Infallible {
    let (mut asked, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        if let Ok((stream, _)) = listener.accept().await {
            let files = Arc::clone(files);
            asked.spawn(async move {
                let _permit = permit;
                // Who asked and has gone asks again.
                let _ = answer(stream, &files).await;
            });
        }
        while asked.try_join_next().is_some() {}
    }
}

fn listen(host: &Host) -> Result<UnixListener> {
    let path = path(host.state.path());
    let failed = |e| {
        Error::io(format!("listen at {}", path.display()), e)
            .with_hint("a socket's path has at most 107 bytes: choose a shorter state directory")
    };
    // The state directory is ours alone, so this is an agent's that was killed.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    if let Some(logs) = host.engine.logs() {
        give(host.state.path(), &*logs)?;
    }
    Ok(listener)
}

/// Lets the database's user in, where that is not ours: to the socket, and through the directory, which stays closed to
/// everything else in it.
pub(crate) fn give(state: &Path, logs: &dyn Logs) -> Result<()> {
    let Some((user, group)) = logs.user() else { return Ok(()) };
    if user == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let path = path(state);
    chown(&path, Some(user), Some(group))
        .and_then(|()| std::fs::set_permissions(state, Permissions::from_mode(0o711)))
        .map_err(|e| {
            Error::io(format!("give {} to the database's user", path.display()), e)
                .with_hint("run the agent as root or as the user that owns the data directory")
        })
}

fn pushed(words: &str) -> Option<LogFile> {
    let words: Vec<&str> = words.split(' ').collect();
    let [name, length, digest, head] = words[..] else { return None };
    Some(LogFile {
        name: name.to_owned(),
        length: length.parse().ok()?,
        digest: blake3::Hash::from_hex(digest).ok()?,
        head: bytes(head)?,
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

async fn answer(stream: UnixStream, files: &Arc<Files>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LINE_MAX));
    let _ =
        tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await.map_err(std::io::Error::from)??;
    let got = match line.trim_end().split_once(' ') {
        Some(("get", name)) if line.ends_with('\n') => files.get(name).await,
        Some(("push", words)) if line.ends_with('\n') => match pushed(words) {
            Some(file) => files.push(&file).await.map(|()| Some(Vec::new())),
            None => Err(Error::invalid("what is said of a log file does not parse")),
        },
        _ => {
            Err(Error::invalid("the agent does not know this question").with_hint("it is of another version"))
        }
    };
    let (head, bytes) = match got {
        Ok(Some(bytes)) => (format!("0 {}\n", bytes.len()), bytes),
        Ok(None) => ("1\n".to_owned(), Vec::new()),
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            let asked: String = line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            tracing::error!(error = %error.chain(), hint, asked, "a database does not get what it asks for");
            let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
            let head = format!("200 {}\n", format!("{}{hint}", error.chain()).replace('\n', " "));
            files.failed(error);
            (head, Vec::new())
        }
    };
    let writing = async {
        writer.write_all(head.as_bytes()).await?;
        writer.write_all(&bytes).await?;
        writer.shutdown().await
    };
    tokio::time::timeout(PATIENCE, writing).await.map_err(std::io::Error::from)?
}
