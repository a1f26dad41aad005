//! What etcd refuses, and what an operator is told of it.
use std::path::{Path, PathBuf};

use bytes::Bytes;
use etcd_client::{Certificate, ConnectOptions, Identity, Permission, TlsOptions};
use palinurus_repository::{Error, ErrorKind, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::*;
use crate::state::Expect;

async fn open(config: &EtcdConfig) -> Result<EtcdElection> {
    EtcdElection::open(config, "c1", Arc::new(SystemClock), Arc::new(SystemEntropy::new())).await
}

async fn refused(config: &EtcdConfig, kind: ErrorKind, words: &[&str]) {
    said(&open(config).await.unwrap_err(), kind, words);
}

/// Found out by asking; a coordinator that starts waits for what may come back.
async fn unavailable(config: &EtcdConfig, words: &[&str]) {
    let election = open(config).await.unwrap();
    said(&election.reader().get("x").await.unwrap_err(), ErrorKind::Unavailable, words);
}

fn said(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = format!("{error:?}");
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_belongs_to_one_cluster() {
    let etcd = Etcd::start().await;
    let ours = config(&etcd, LONG);
    let first = election(&ours, "c1").await;
    let lease = lead(&first).await;
    lease.state.put("x", Bytes::new(), Expect::Absent).await.unwrap();
    let other = EtcdConfig { cluster: "other".to_owned(), ..ours.clone() };
    refused(&other, ErrorKind::Conflict, &["\"main\"", "\"other\"", "prefix"]).await;
    let elsewhere = EtcdConfig { prefix: "other/".to_owned(), ..other };
    let second = election(&elsewhere, "c1").await;
    let beside = lead(&second).await;
    assert!(beside.state.list("").await.unwrap().is_empty());
    assert!(!lease.over.is_cancelled());
}

/// It was away when this one started; it leads nothing that is another cluster's later either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_prefix_is_refused_when_etcd_is_back() {
    let mut etcd = Etcd::start().await;
    let ours = config(&etcd, LEASE);
    etcd.kill(0);
    let election = election(&ours, "c1").await;
    etcd.restart(0).await;
    etcd.client().await.put("palinurus/cluster", "other", None).await.unwrap();
    let campaign = tokio::time::timeout(LEASE, election.campaign("x")).await;
    assert!(campaign.is_err(), "it led");
    assert!(etcd.client().await.get("palinurus/leader", None).await.unwrap().kvs().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_and_full_are_told_apart() {
    let setup = Setup {
        arguments: Box::new(|_, _| vec!["--quota-backend-bytes".to_owned(), (4 << 20).to_string()]),
        ..Setup::default()
    };
    let etcd = Etcd::with(1, setup).await;
    let election = election(&config(&etcd, LONG), "c1").await;
    let lease = lead(&election).await;
    let error = lease.state.put("x", Bytes::from(vec![1; 2 << 20]), Expect::Any).await.unwrap_err();
    said(&error, ErrorKind::Invalid, &["1.5 MiB"]);
    let full = async {
        loop {
            if let Err(e) = lease.state.put("x", Bytes::from(vec![1; 1 << 20]), Expect::Any).await {
                return e;
            }
        }
    };
    let error = within(WAIT, "it is full", full).await;
    said(&error, ErrorKind::Unavailable, &["etcd is full", "alarm disarm"]);
    assert!(lease.state.get("x").await.unwrap().is_some(), "reading goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_it_says_so() {
    let mut etcd = Etcd::with(3, Setup::default()).await;
    let mut config = config(&etcd, LONG);
    config.endpoints.rotate_left(1);
    config.timeout = IMPATIENT * 2;
    let election = election(&config, "c1").await;
    let lease = lead(&election).await;
    etcd.kill(0);
    etcd.kill(1);
    let told = async {
        loop {
            match lease.state.put("x", Bytes::new(), Expect::Any).await {
                Err(e) if e.kind() == ErrorKind::Fenced => panic!("its lease ended first"),
                Err(e) if format!("{e:?}").contains("no quorum") => return e,
                _ => {}
            }
        }
    };
    said(&within(WAIT, "it says so", told).await, ErrorKind::Unavailable, &["no quorum"]);
}

const PASSWORD: &str = "swordfish";

/// With root and palinurus, who may write below its prefix; and mallory, who may not.
async fn with_users(arguments: &'static [&'static str]) -> (Etcd, EtcdConfig) {
    let setup = Setup {
        arguments: Box::new(move |directory, _| {
            std::fs::write(directory.join("secret"), "the key of tokens").unwrap();
            let place = directory.to_str().unwrap();
            // Passwords are hashed slowly on purpose; here that would only keep the machine busy.
            let cheap = ["--bcrypt-cost", "4"];
            cheap.iter().chain(arguments).map(|argument| argument.replace("DIR", place)).collect()
        }),
        ..Setup::default()
    };
    let etcd = Etcd::with(1, setup).await;
    let mut admin = etcd.client().await;
    for (user, role) in [("root", "root"), ("palinurus", "backup"), ("mallory", "none")] {
        admin.user_add(user, PASSWORD, None).await.unwrap();
        admin.role_add(role).await.unwrap();
        admin.user_grant_role(user, role).await.unwrap();
    }
    let all = Permission::read_write("palinurus/").with_prefix();
    admin.role_grant_permission("backup", all).await.unwrap();
    admin.auth_enable().await.unwrap();
    let password_file = etcd.directory.path().join("password");
    std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let config = EtcdConfig { user: "palinurus".to_owned(), password_file, ..config(&etcd, LONG) };
    (etcd, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_let_in_or_told_why_not() {
    let (etcd, config) = with_users(&[]).await;
    let election = election(&config, "c1").await;
    suite::run(lead(&election).await.state).await;
    let mallory = EtcdConfig { user: "mallory".to_owned(), ..config.clone() };
    refused(&mallory, ErrorKind::Denied, &["permission denied", "grant-permission"]).await;
    let nobody = EtcdConfig { user: String::new(), password_file: PathBuf::new(), ..config.clone() };
    refused(&nobody, ErrorKind::Denied, &["user name is empty", "password_file"]).await;
    let wrong = etcd.directory.path().join("wrong");
    std::fs::write(&wrong, "catfish").unwrap();
    let error = open(&EtcdConfig { password_file: wrong, ..config }).await.unwrap_err();
    said(&error, ErrorKind::Denied, &["password_file"]);
    assert!(!format!("{error:?}").contains("catfish"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_where_there_are_none_is_a_setting_to_mend() {
    let etcd = Etcd::start().await;
    let password_file = etcd.directory.path().join("password");
    std::fs::write(&password_file, PASSWORD).unwrap();
    let config = EtcdConfig { user: "palinurus".to_owned(), password_file, ..config(&etcd, LEASE) };
    refused(&config, ErrorKind::Invalid, &["auth enable"]).await;
}

/// Tokens run out, whoever uses them: whoever leads or follows takes new ones and never notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_run_out_are_replaced() {
    const TOKENS: &str = "jwt,pub-key=DIR/secret,priv-key=DIR/secret,sign-method=HS256,ttl=1s";
    let (_etcd, config) = with_users(&["--auth-token", TOKENS]).await;
    let election = election(&config, "c1").await;
    let lease = lead(&election).await;
    let mut followed = lease.state.follow("");
    let options = ConnectOptions::new().with_user("palinurus", PASSWORD);
    let mut raw = etcd_client::Client::connect(&config.endpoints, Some(options)).await.unwrap();
    for round in 0..3 {
        // Until a token taken now has run out; those taken before have too.
        raw.refresh_token().await.unwrap();
        within(WAIT, "the token has run out", async {
            while raw.get("palinurus/x", None).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        lease.state.put(&format!("{round}"), Bytes::new(), Expect::Absent).await.unwrap();
    }
    let all = async {
        use futures::StreamExt;
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 3 {
            match followed.next().await.unwrap() {
                crate::state::Change::All(all) => seen.extend(all.into_iter().map(|(key, _)| key)),
                crate::state::Change::Put(key, _) => drop(seen.insert(key)),
                other => panic!("{other:?}"),
            }
        }
    };
    within(WAIT, "all is followed", all).await;
    assert!(!lease.over.is_cancelled());
}

/// With its memory etcd loses its tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_forgotten_are_replaced() {
    let (mut etcd, config) = with_users(&[]).await;
    let election = election(&config, "c1").await;
    let lease = lead(&election).await;
    etcd.restart(0).await;
    lease.state.put("x", Bytes::new(), Expect::Absent).await.unwrap();
    assert!(!lease.over.is_cancelled());
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        // Named by its key: two of one name would be told apart by their signatures only.
        let key = KeyPair::generate().unwrap();
        parameters.distinguished_name.push(DnType::CommonName, format!("{:?}", key.public_key_raw()));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// `name`.pem and `name`.key.
    fn sign(&self, directory: &Path, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.subject_alt_names = vec![SanType::IpAddress(host.parse().unwrap())];
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn encrypted() -> Setup {
    let authority = Authority::new();
    let arguments = move |directory: &Path, host: &str| {
        std::fs::write(directory.join("ca.pem"), authority.0.pem()).unwrap();
        authority.sign(directory, "server", host);
        authority.sign(directory, "client", host);
        let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let paths =
            [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let mut arguments: Vec<String> =
            paths.iter().flat_map(|(flag, name)| [(*flag).to_owned(), file(name)]).collect();
        arguments.push("--client-cert-auth".to_owned());
        arguments
    };
    let options = |directory: &Path, _: &str| {
        let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")))
            .identity(Identity::from_pem(read("client.pem"), read("client.key")));
        ConnectOptions::new().with_tls(tls)
    };
    Setup { scheme: "https", arguments: Box::new(arguments), options: Box::new(options) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_on_both_sides() {
    let etcd = Etcd::with(1, encrypted()).await;
    let file = |name: &str| etcd.directory.path().join(name);
    let good = EtcdConfig {
        ca: file("ca.pem"),
        certificate: file("client.pem"),
        key: file("client.key"),
        ..config(&etcd, LONG)
    };
    let election = election(&good, "c1").await;
    suite::run(lead(&election).await.state).await;

    std::fs::write(file("other.pem"), Authority::new().0.pem()).unwrap();
    let good = EtcdConfig { timeout: IMPATIENT * 3, ..good };
    let stranger = EtcdConfig { ca: file("other.pem"), ..good.clone() };
    unavailable(&stranger, &["UnknownIssuer", "`ca`"]).await;
    let nobody = EtcdConfig { certificate: PathBuf::new(), key: PathBuf::new(), ..good.clone() };
    unavailable(&nobody, &["`certificate`"]).await;
    let open = |endpoint: &String| endpoint.replace("https", "http");
    let plain =
        EtcdConfig { endpoints: good.endpoints.iter().map(open).collect(), ca: PathBuf::new(), ..nobody };
    unavailable(&plain, &["https://"]).await;
    refused(&EtcdConfig { ca: file("none.pem"), ..good }, ErrorKind::NotFound, &["none.pem"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_without_tls_is_told_from_one_that_is_away() {
    let etcd = Etcd::start().await;
    std::fs::write(etcd.directory.path().join("ca.pem"), Authority::new().0.pem()).unwrap();
    let plain = config(&etcd, LONG);
    let encrypted = EtcdConfig {
        endpoints: plain.endpoints.iter().map(|endpoint| endpoint.replace("http", "https")).collect(),
        ca: etcd.directory.path().join("ca.pem"),
        timeout: IMPATIENT * 3,
        ..plain
    };
    unavailable(&encrypted, &["begins with http://"]).await;
}
