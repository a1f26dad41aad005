//! `palinurus-agent wal-get --state DIR NAME PATH`, which a database runs beside itself. It holds no key: the agent that
//! runs with that state directory does the work.
//!
//! The exit code is all that the database understands: 0 the file is there; 1 it is known not to exist; 200 anything else,
//! above the 125 up to which PostgreSQL takes every failure for the end of the log.
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{UnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::socket;

const ABSENT: u8 = 1;
const FAILED: u8 = 200;
/// For the agent to get what it needs from the store, which it asks again by itself.
const PATIENCE: Duration = Duration::from_secs(600);
const LENGTH_MAX: u64 = 1 << 30;

/// The exit code, when `arguments`, of a program or of its `agent`, are such a command.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.into_iter().skip(1).skip_while(|word| word == "agent");
    if arguments.next()? != "wal-get" {
        return None;
    }
    let rest: Vec<OsString> = arguments.collect();
    let code = match rest.as_slice() {
        [flag, state, name, path] if flag == "--state" => match name.to_str() {
            Some(name) => whole(|| get(Path::new(state), name, &PathBuf::from(path))),
            None => Err(io::Error::other("the name of a log file is not UTF-8")),
        },
        _ => Err(io::Error::other("usage: wal-get --state DIR NAME PATH")),
    };
    Some(code.unwrap_or_else(|error| {
        // The database's log has it.
        let _ = writeln!(io::stderr(), "palinurus wal-get: {error}");
        FAILED
    }))
}

/// A panic would end in 101, which the database takes for the end of the log.
fn whole(deed: impl FnOnce() -> io::Result<u8> + UnwindSafe) -> io::Result<u8> {
    catch_unwind(deed).unwrap_or_else(|_| Err(io::Error::other("it panicked, which is a bug: see above")))
}

fn get(state: &Path, name: &str, path: &Path) -> io::Result<u8> {
    let at = socket::path(state);
    let mut stream = UnixStream::connect(&at).map_err(|e| {
        io::Error::other(format!(
            "no agent answers at {}: {e}; start it with this state directory",
            at.display()
        ))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if name.contains(['\n', ' ']) {
        return Err(io::Error::other("this is not the name of a log file"));
    }
    stream.write_all(format!("get {name}\n").as_bytes())?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    (&mut stream).take(64 << 10).read_line(&mut head)?;
    let (code, rest) = head.trim_end().split_once(' ').unwrap_or((head.trim_end(), ""));
    match code {
        "0" => {
            let length = rest.parse().ok().filter(|length| *length <= LENGTH_MAX);
            let length = length.ok_or_else(|| io::Error::other("the agent's answer does not parse"))?;
            write(&mut stream, length, path)?;
            Ok(0)
        }
        "1" if head.ends_with('\n') => Ok(ABSENT),
        _ => Err(io::Error::other(if rest.is_empty() { "the agent broke off" } else { rest })),
    }
}

/// Whole and on the disk, or not there.
fn write(from: &mut impl Read, length: u64, path: &Path) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        let copied = io::copy(&mut from.take(length), &mut file)?;
        if copied < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.sync_all()
    });
    written.inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn asked(answer: &'static [u8]) -> (Option<u8>, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket::path(dir.path())).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        let file = dir.path().join("RECOVERYXLOG");
        let words = ["palinurus", "agent", "wal-get", "--state"].map(OsString::from);
        let rest = [dir.path().as_os_str().to_owned(), "00000002.history".into(), file.clone().into()];
        let code = run(words.into_iter().chain(rest));
        assert_eq!(agent.join().unwrap(), "get 00000002.history\n");
        (code, std::fs::read(file).ok())
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
