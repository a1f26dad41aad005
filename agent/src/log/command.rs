//! `palinurus-agent wal-get --state DIR NAME PATH` and `wal-push [--state DIR] PATH`, which a database runs beside itself.
//! They hold no key: the agent that runs with that state directory does the work.
//!
//! The exit code is all that the database understands. Of `wal-get`: 0 the file is there; 1 it is known not to exist; 200
//! anything else, above the 125 up to which PostgreSQL takes every failure for the end of the log. Of `wal-push`: 0 the
//! file is stored; 1 it is not, for above 125 PostgreSQL would end its archiver, and not count the failure.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{UnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::socket;

const ABSENT: u8 = 1;
const FAILED: u8 = 200;
const KEPT: u8 = 1;
/// For the agent to get what it needs from the store, which it asks again by itself.
const PATIENCE: Duration = Duration::from_secs(600);
/// For the agent to say that a file is not stored yet: a database that shuts down waits for that.
const PUSH_PATIENCE: Duration = Duration::from_secs(20);
const LENGTH_MAX: u64 = 1 << 30;
/// What a log file says of itself in the beginning.
const HEAD: usize = 64;
/// Where agents' settings have it unless they say otherwise.
const STATE: &str = "/var/lib/palinurus/agent";

/// The exit code, when `arguments`, of a program or of its `agent`, are such a command.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.into_iter().skip(1).skip_while(|word| word == "agent");
    let command = arguments.next()?;
    let rest: Vec<OsString> = arguments.collect();
    let (ended, failed) = match command.to_str()? {
        "wal-get" => (whole(|| get(&rest)), FAILED),
        "wal-push" => (whole(|| push(&rest)), KEPT),
        _ => return None,
    };
    Some(ended.unwrap_or_else(|error| {
        // The database's log has it.
        let _ = writeln!(io::stderr(), "palinurus {}: {error}", command.display());
        failed
    }))
}

/// A panic would end in 101, which the database takes for the end of the log.
fn whole(deed: impl FnOnce() -> io::Result<u8> + UnwindSafe) -> io::Result<u8> {
    catch_unwind(deed).unwrap_or_else(|_| Err(io::Error::other("it panicked, which is a bug: see above")))
}

fn get(words: &[OsString]) -> io::Result<u8> {
    let [flag, state, name, path] = words else { return Err(usage("wal-get --state DIR NAME PATH")) };
    if flag != "--state" {
        return Err(usage("wal-get --state DIR NAME PATH"));
    }
    let name = plain(name)?;
    let Some((rest, mut stream)) = ask(Path::new(state), &format!("get {name}\n"), PATIENCE)? else {
        return Ok(ABSENT);
    };
    let length = rest.parse().ok().filter(|length| *length <= LENGTH_MAX);
    let length = length.ok_or_else(|| io::Error::other("the agent's answer does not parse"))?;
    write(&mut stream, length, &PathBuf::from(path))?;
    Ok(0)
}

fn push(words: &[OsString]) -> io::Result<u8> {
    let (state, path) = match words {
        [path] => (OsStr::new(STATE), path),
        [flag, state, path] if flag == "--state" => (state.as_os_str(), path),
        _ => return Err(usage("wal-push [--state DIR] PATH")),
    };
    let path = Path::new(path);
    let name = plain(path.file_name().unwrap_or_default())?;
    let failed = |e| io::Error::other(format!("read {}: {e}", path.display()));
    let (length, digest, head) = look(path).map_err(failed)?;
    let line = format!("push {name} {length} {digest} {head}\n");
    match ask(Path::new(state), &line, PUSH_PATIENCE)? {
        Some(_) => Ok(0),
        None => Err(io::Error::other("the agent's answer does not parse")),
    }
}

fn usage(words: &str) -> io::Error {
    io::Error::other(format!("usage: {words}"))
}

fn plain(name: &OsStr) -> io::Result<&str> {
    let name = name.to_str().filter(|name| !name.is_empty() && !name.contains(['\n', ' ']));
    name.ok_or_else(|| io::Error::other("this is not the name of a log file"))
}

/// How long the file is, its digest, and how it begins.
fn look(path: &Path) -> io::Result<(u64, blake3::Hash, String)> {
    let (mut file, mut digest) = (File::open(path)?, blake3::Hasher::new());
    let (mut part, mut length, mut head) = (vec![0; 1 << 20], 0, String::new());
    loop {
        let read = file.read(&mut part)?;
        if read == 0 {
            return Ok((length, digest.finalize(), head));
        }
        if length == 0 {
            head = part[..read.min(HEAD)].iter().map(|byte| format!("{byte:02x}")).collect();
        }
        digest.update(&part[..read]);
        length += read as u64;
    }
}

/// What the agent says behind its 0, and what follows; nothing, where it says 1.
fn ask(state: &Path, line: &str, patience: Duration) -> io::Result<Option<(String, BufReader<UnixStream>)>> {
    let at = socket::path(state);
    let mut stream = UnixStream::connect(&at).map_err(|e| {
        io::Error::other(format!(
            "no agent answers at {}: {e}; start it with this state directory",
            at.display()
        ))
    })?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(line.as_bytes())?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    (&mut stream).take(64 << 10).read_line(&mut head)?;
    let (code, rest) = head.trim_end().split_once(' ').unwrap_or((head.trim_end(), ""));
    match code {
        "0" if head.ends_with('\n') => Ok(Some((rest.to_owned(), stream))),
        "1" if head.ends_with('\n') => Ok(None),
        _ => Err(io::Error::other(if rest.is_empty() { "the agent broke off" } else { rest })),
    }
}

/// Whole, or not there. The database makes it durable if it keeps it: after a crash it asks again.
fn write(from: &mut impl Read, length: u64, path: &Path) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        let copied = io::copy(&mut from.take(length), &mut file)?;
        if copied < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    });
    written.inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What the agent was asked by a command in a directory with its socket.
    fn answered(
        answer: &'static [u8],
        words: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> (Option<u8>, String, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket::path(dir.path())).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        let code = run(words(dir.path()));
        (code, agent.join().unwrap(), dir)
    }

    fn asked(answer: &'static [u8]) -> (Option<u8>, Option<Vec<u8>>) {
        let (code, line, dir) = answered(answer, |dir| {
            let words = ["palinurus", "agent", "wal-get", "--state"].map(OsString::from);
            let rest = [dir.into(), "00000002.history".into(), dir.join("RECOVERYXLOG").into()];
            words.into_iter().chain(rest).collect()
        });
        assert_eq!(line, "get 00000002.history\n");
        (code, std::fs::read(dir.path().join("RECOVERYXLOG")).ok())
    }

    #[test]
    fn what_is_not_stored_is_kept_and_asked_for_again() {
        let push = |answer| {
            let (code, line, _dir) = answered(answer, |dir| {
                let file = dir.join("0000000100000000000000A1");
                std::fs::write(&file, [7; 100]).unwrap();
                let words = ["palinurus-agent", "wal-push", "--state"].map(OsString::from);
                words.into_iter().chain([dir.into(), file.into()]).collect()
            });
            let digest = blake3::hash(&[7; 100]);
            assert_eq!(line, format!("push 0000000100000000000000A1 100 {digest} {}\n", "07".repeat(HEAD)));
            code
        };
        assert_eq!(push(b"0 0\n"), Some(0));
        for failed in [&b"200 away\n"[..], b"1\n", b"", b"0"] {
            assert_eq!(push(failed), Some(1), "{failed:?}");
        }
        let words = |words: &[&str]| run(words.iter().map(OsString::from));
        assert_eq!(words(&["palinurus-agent", "wal-push", "--state", "/nowhere", "/etc/passwd"]), Some(1));
        assert_eq!(words(&["palinurus-agent", "wal-push"]), Some(1), "above 125 the archiver ends");
    }

    #[test]
    fn a_panic_is_no_end_of_the_log() {
        assert!(whole(|| panic!("here")).is_err());
        assert_eq!(whole(|| Ok(ABSENT)).unwrap(), ABSENT);
    }

    #[test]
    fn only_what_is_known_not_to_exist_is_said_to_be_absent() {
        assert_eq!(asked(b"0 3\nabc"), (Some(0), Some(b"abc".to_vec())));
        assert_eq!(asked(b"1\n"), (Some(1), None));
        for broken in [&b""[..], b"1", b"0 3\nab", b"0 x\n", b"200 away\n", b"2\n", b"0 99999999999\n"] {
            assert_eq!(asked(broken), (Some(200), None), "{broken:?}");
        }
        let words = |words: &[&str]| run(words.iter().map(OsString::from));
        assert_eq!(words(&["palinurus-agent", "wal-get", "--state", "/nowhere", "x", "y"]), Some(200));
        assert_eq!(words(&["palinurus-agent", "wal-get", "--help"]), Some(200), "never 1 or 2");
        assert_eq!(words(&["palinurus-agent", "--config", "x"]), None);
        assert_eq!(words(&["palinurus", "restore", "wal-get"]), None);
    }
}
