//! Who is told of a service's health: once a change, whatever fails on the way.
use std::fs;
use std::path::Path;
use std::sync::Arc;

use palinurus_identity::Who;
use palinurus_tests::World;
use palinurus_tests::certs::Certs;
use palinurus_tests::world::wait;
use ring::hmac;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

mod mail;
mod webhook;

use mail::Sink;
use webhook::{Answer, Got, Receiver};

const SECRET: &str = "a secret of the webhook's";
/// Begins nothing while a test runs, on whatever day that is.
const NEVER_SOON: &str = "0 0 29 2 *";

fn hook(name: &str, receiver: &Receiver, secret: &Path) -> String {
    format!(
        "[[notify.webhook]]\nname = {name:?}\nurl = {:?}\nsecret_file = {secret:?}\ntimeout = '300s'\n",
        receiver.url
    )
}

/// A receiver's, at this machine's address.
fn tls() -> (tempfile::TempDir, Certs, TlsAcceptor) {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::new(&dir.path().join("certs"));
    let issued = certs.issue(&Who::Coordinator { name: "receiver".into() }, &["127.0.0.1".to_owned()]);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(issued.certificate).unwrap().collect();
    let key = PrivateKeyDer::from_pem_file(issued.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.unwrap(), key);
    (dir, certs, TlsAcceptor::from(Arc::new(config.unwrap())))
}

/// One node, and these channels.
fn world(hooks: &[(&str, &Receiver)]) -> World {
    let mut world = World::new(&["n1"]);
    fs::write(world.data("n1").join("file"), "data").unwrap();
    world.service.insert("schedule".into(), NEVER_SOON.into());
    let secret = world.path("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    world.settings = hooks.iter().map(|(name, receiver)| hook(name, receiver, &secret)).collect();
    world
}

async fn accepted(receiver: &Receiver, count: usize) -> Vec<Got> {
    wait(&format!("{count} notices are delivered"), || {
        Some(receiver.accepted()).filter(|got| got.len() >= count)
    })
    .await
}

/// The changes, in order: what it was, and what it is.
fn changes(got: &[Got]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    got.iter().map(|got| (text(&got.json()["was"]), text(&got.json()["is"]))).collect()
}

fn change(was: &str, is: &str) -> (String, String) {
    (was.to_owned(), is.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_health_is_delivered_once_whatever_fails_on_the_way() {
    let (_dir, certs, tls) = tls();
    let receiver = Receiver::encrypted(&[Answer::Fails, Answer::Closes], Answer::Good, tls.clone()).await;
    let silent = Receiver::new(&[], Answer::Silent).await;
    let sink = Sink::new(1, tls).await;
    let mut world = world(&[("silent", &silent), ("ops", &receiver)]);
    world.settings += &format!("ca = {:?}\n", certs.ca());
    let password = world.path("password");
    fs::write(&password, "a word\n").unwrap();
    world.settings += &format!(
        "[[notify.email]]\nserver = {:?}\nca = {:?}\nuser = 'palinurus'\npassword_file = {password:?}\n\
         from = 'Palinurus <p@example.com>'\nto = ['dba@example.com']\n",
        sink.server,
        certs.ca()
    );
    world.start().await;
    let first = accepted(&receiver, 1).await;
    world.backup().await;
    let both = accepted(&receiver, 2).await;
    let expected = [change("unknown", "unprotected"), change("unprotected", "protected")];
    assert_eq!(changes(&both), expected);
    // It failed twice, and every try was of the same id and body.
    let tries: Vec<Got> = receiver.got().into_iter().filter(|got| got.id == first[0].id).collect();
    assert_eq!(tries.len(), 3);
    assert!(tries.iter().all(|got| got.body == first[0].body));
    let body = first[0].json();
    assert_eq!(body["version"], 1);
    assert_eq!((&body["kind"], &body["service"]), (&"health".into(), &"s".into()));
    assert_eq!(body["id"].as_str(), Some(first[0].id.as_str()));
    assert!(body["why"].as_str().unwrap().contains("no backup"), "{body}");
    for got in receiver.got() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let signed = [got.timestamp.as_bytes(), b".", &got.body].concat();
        let mut hex = String::from("v1=");
        hmac::sign(&key, &signed).as_ref().iter().for_each(|byte| hex += &format!("{byte:02x}"));
        assert_eq!(got.signature, hex);
    }
    // The mail server refused once, and has each once; one that never answers made nobody wait.
    let mails = wait("both changes are mailed", || Some(sink.mails()).filter(|mails| mails.len() >= 2)).await;
    assert_eq!(mails.len(), 2);
    for (mail, got) in mails.iter().zip(&both) {
        assert_eq!(mail.to, ["RCPT TO:<dba@example.com>"]);
        assert!(mail.text.contains(&format!("Message-ID: <{}@palinurus>", got.id)), "{}", mail.text);
    }
    assert!(mails[0].text.contains("service s is unprotected"), "{}", mails[0].text);
    assert_eq!(silent.got().len(), 1);
    let log = fs::read_to_string(world.path("coordinator.log")).unwrap();
    assert!(log.contains("a notice is not delivered") && log.contains("service s is protected"), "{log}");
    for secret in [SECRET, "a word", "/hook"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_killed_owes_what_it_recorded_and_repeats_nothing() {
    let receiver = Receiver::new(&[], Answer::Fails).await;
    let mut world = world(&[("ops", &receiver)]);
    world.start().await;
    let owed = wait("a notice is tried", || receiver.got().pop()).await;
    world.kill_coordinator();
    receiver.from_now_on(Answer::Good);
    world.start_coordinator().await;
    // Under the same id; nothing has changed, so nothing else is told.
    let got = accepted(&receiver, 1).await;
    assert_eq!((&got[0].id, &got[0].body), (&owed.id, &owed.body));
    world.joined().await;
    let backup = world.backup().await;
    accepted(&receiver, 2).await;
    // That it was delivered is recorded after that it was: until then it would be sent again, under its id.
    wait("both deliveries are recorded", || {
        let log = fs::read_to_string(world.path("coordinator.log")).unwrap();
        (log.matches("a notice is delivered").count() >= 2).then_some(())
    })
    .await;
    world.kill_coordinator();
    world.start_coordinator().await;
    world.joined().await;
    // A further change comes after all that the new leader had to tell.
    let id = backup.backup.unwrap().backup_id;
    world.run(&["backup", "delete", "--service", "s", &id, "--yes"]).await.expect(0);
    let got = accepted(&receiver, 3).await;
    let mut all = changes(&got);
    all.dedup();
    assert_eq!(
        all,
        [
            change("unknown", "unprotected"),
            change("unprotected", "protected"),
            change("protected", "unprotected")
        ]
    );
    assert_eq!(got.len(), 3, "nothing is told anew by the next leader");
}
