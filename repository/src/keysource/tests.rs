use std::fs::{self, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use super::*;
use crate::entropy::SystemEntropy;
use crate::error::ErrorKind;

const LONG: Duration = Duration::from_secs(60);
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

fn sh(script: &str, timeout: Duration) -> KeySource {
    KeySource::command(["sh", "-c", script].map(str::to_owned).to_vec(), timeout)
}

async fn refused(source: KeySource) -> Error {
    let error = source.read().await.unwrap_err();
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error:?}");
    error
}

#[tokio::test]
async fn what_the_command_prints_is_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let key = KeyFile::generate(&SystemEntropy::new()).unwrap();
    key.write(&path).unwrap();
    let (read, warning) = sh(&format!("cat {}", path.display()), LONG).read().await.unwrap();
    assert_eq!((read.id, read.key == key.key, warning), (key.id, true, None));
}

#[tokio::test]
async fn each_way_to_fail_is_told() {
    let missing = KeySource::command(vec!["/no/such/vault".into()], LONG);
    let error = refused(missing).await;
    assert!(error.kind() == ErrorKind::NotFound && error.what().contains("/no/such/vault"), "{error:?}");

    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o600)).unwrap();
    let error = refused(KeySource::command(vec![plain.display().to_string()], LONG)).await;
    assert!(error.kind() == ErrorKind::Denied && error.hint().unwrap().contains("executable"), "{error:?}");

    let script = "yes noise | head -n 20000 >&2; echo permission denied by vault >&2; exit 3";
    let error = refused(sh(script, LONG)).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.what().contains("exit status: 3"), "{error:?}");
    assert!(error.chain().ends_with("it said: permission denied by vault"), "{error:?}");
    let error = refused(sh("printf 'x%.0s' $(seq 5000) >&2; exit 1", LONG)).await;
    assert!(error.chain().len() < 400, "bounded: {}", error.chain().len());

    for (printed, what) in [
        ("true", "it is empty"),
        ("echo hunter2", "does not begin with"),
        ("yes | head -c 1000000", "longer than 4096"),
        ("head -c 3000 /dev/urandom | tr '\\000' x", "not text"),
    ] {
        let error = refused(sh(printed, LONG)).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{printed}");
        assert!(error.what().contains(what) && error.what().contains("the command sh"), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn what_may_be_a_key_is_not_shown() {
    let secret = "5e".repeat(32);
    let error = refused(sh(&format!("echo key={secret} >&2; echo {secret}; exit 1"), LONG)).await;
    assert!(error.chain().contains("key=[hidden]") && !format!("{error:?}").contains("5e5e"), "{error:?}");
    let source = KeySource::command(vec!["vault".into(), "--token=hunter2".into()], LONG);
    assert!(!source.to_string().contains("hunter2"));
}

#[tokio::test]
async fn is_killed_with_all_it_started_when_its_time_is_up() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    // The grandchild holds the FIFO open for writing: there is nothing to read while it lives, and an end without it.
    let mut reader = fs::File::options().read(true).custom_flags(NONBLOCK).open(&fifo).unwrap();
    let mut lives = || match std::io::Read::read(&mut reader, &mut [0]) {
        Ok(read) => read > 0,
        Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
    };
    // One that hangs, and one that is done while what it started keeps its output open. Its time is up when all of it
    // runs, however slowly that starts.
    let script = format!("sleep 600 >{} & sleep 600", fifo.display());
    let (mut lived, mut time) = (false, Duration::from_millis(500));
    while !lived {
        let looking = async {
            loop {
                lived |= lives();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let error = tokio::select! {
            error = refused(sh(&script, time)) => error,
            () = looking => unreachable!(),
        };
        let said = humantime::format_duration(time).to_string();
        assert!(error.kind() == ErrorKind::Unavailable && error.what().contains(&said), "{error:?}");
        while lives() {
            tokio::task::yield_now().await;
        }
        time *= 4;
    }
    // Nor does it wait, or keep anything, for one that never stops printing.
    let error = refused(sh("exec yes", Duration::from_millis(500))).await;
    assert!(error.what().contains("500ms"), "{error:?}");
    let error = refused(sh("sleep 600 & exit 0", Duration::from_millis(500))).await;
    assert!(error.what().contains("500ms"), "{error:?}");
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Settings {
    keys: Vec<KeySource>,
}

#[test]
fn settings_name_files_and_commands() {
    let parse = |text: &str| serde_json::from_str::<Settings>(text);
    let both = r#"{"keys":["/a",{"command":["vault","read"]},{"command":["v"],"timeout":"3s"}]}"#;
    let settings = parse(both).unwrap();
    let command = |argv: &[&str], timeout| {
        KeySource::command(argv.iter().map(|argument| (*argument).to_owned()).collect(), timeout)
    };
    let expected = vec![
        KeySource::from("/a"),
        command(&["vault", "read"], KeyCommand::TIMEOUT),
        command(&["v"], Duration::from_secs(3)),
    ];
    assert_eq!(settings, Settings { keys: expected });
    assert_eq!(parse(&serde_json::to_string(&settings).unwrap()).unwrap(), settings);
    for (bad, told) in [
        (r#"{"keys":[7]}"#, "a key file's path"),
        (r#"{"keys":[{"comand":["v"]}]}"#, "unknown field `comand`"),
        (r#"{"keys":[{"timeout":"3s"}]}"#, "missing field `command`"),
        (r#"{"keys":[{"command":["v"],"timeout":"soon"}]}"#, "soon"),
    ] {
        assert!(parse(bad).unwrap_err().to_string().contains(told), "{bad}");
    }
    for source in
        [KeySource::from(""), command(&[], LONG), command(&[""], LONG), command(&["v"], Duration::ZERO)]
    {
        assert!(source.check().unwrap_err().hint().unwrap().contains("timeout"));
    }
}
