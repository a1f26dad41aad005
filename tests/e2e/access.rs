//! Who may do what, with real processes that know each other by certificates.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palinurus_identity::{Issued, Role};
use palinurus_proto::v1::{self, agent_message, coordinator_message, fleet_client::FleetClient};
use palinurus_tests::certs::Certs;
use palinurus_tests::process::palinurus;
use palinurus_tests::world::{Ran, SERVICE, World, run, wait_async};
use tonic::Code;
use tonic::transport::Channel;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `palinurus` as somebody else.
async fn run_as(world: &World, who: &Issued, arguments: &[&str]) -> Ran {
    let mut command = palinurus();
    command.args(["--json", "--server", &world.server(), "--ca"]).arg(world.certs.as_ref().unwrap().ca());
    command.arg("--cert").arg(&who.certificate).arg("--cert-key").arg(&who.key).args(arguments);
    run(command).await
}

async fn channel(world: &World, certs: &Certs, who: &Issued) -> Channel {
    certs.dialer(who).connect(&world.server().parse().unwrap(), |endpoint| endpoint).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_backs_up_and_restores_with_everybody_known() {
    let mut world = World::encrypted(&["n1", "n2"]);
    for node in ["n1", "n2"] {
        fs::write(world.data(node).join("file"), vec![7; 100_000]).unwrap();
    }
    world.start().await;
    world.backup().await;
    world.destroy_data("n1");
    world.restore("n1", false).await;
    assert_eq!(fs::read(world.data("n1").join("file")).unwrap(), vec![7; 100_000]);
    // By the command, and by a token of its own instead of a certificate.
    world.run(&["backup", "list"]).await.expect(0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_its_part_and_the_audit_log_says_who() {
    let mut world = World::encrypted(&["n1"]);
    let tokens = world.path("tokens");
    let generate = ["tokens", "generate", "--name", "bob", "--role", "operator", "--file", text(&tokens)];
    let made = world.run(&generate).await.expect(0).json();
    let token = made["token"].as_str().unwrap().to_owned();
    world.settings = format!("tokens = {tokens:?}\n");
    world.start().await;
    let certs = world.certs.clone().unwrap();
    let viewer = certs.operator("vera", Role::Viewer);

    run_as(&world, &viewer, &["backup", "list"]).await.expect(0);
    let refused = run_as(&world, &viewer, &["backup", "start", "--service", SERVICE]).await.expect(7);
    assert!(
        refused.stderr.contains("vera is viewer") && refused.stderr.contains("operator"),
        "{}",
        refused.stderr
    );

    // A token, by file and by environment; and where everybody may read it.
    let file = world.path("token");
    fs::write(&file, &token).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let by_token = |given: &[(&str, &str)], arguments: &[&str]| {
        let mut command = palinurus();
        command.args(["--json", "--server", &world.server(), "--ca"]).arg(certs.ca()).args(arguments);
        command.envs(given.iter().copied());
        run(command)
    };
    let file_given = [("PALINURUS_TOKEN_FILE", text(&file))];
    by_token(&file_given, &["backup", "start", "--service", SERVICE]).await.expect(0);
    by_token(&[("PALINURUS_TOKEN", &token)], &["backup", "list"]).await.expect(0);
    let denied =
        by_token(&file_given, &["backup", "delete", "latest", "--service", SERVICE, "--yes"]).await.expect(7);
    assert!(denied.stderr.contains("bob is operator"), "{}", denied.stderr);
    let other = format!("plt_{}", "0".repeat(64));
    let unknown = by_token(&[("PALINURUS_TOKEN", &other)], &["backup", "list"]).await.expect(7);
    assert!(unknown.stderr.contains("not known") && !unknown.stderr.contains(&other), "{}", unknown.stderr);
    by_token(&[], &["backup", "list"]).await.expect(7);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let open = by_token(&file_given, &["backup", "list"]).await.expect(7);
    assert!(open.stderr.contains("chmod 600"), "{}", open.stderr);
    let in_url = world.server().replace("https://", &format!("https://{token}@"));
    let refused =
        by_token(&[("PALINURUS_SERVER", "")], &["backup", "list", "--server", &in_url]).await.expect(2);
    assert!(!refused.stderr.contains(&token), "{}", refused.stderr);
    assert!(refused.stderr.contains("never goes into an address"), "{}", refused.stderr);
    // Taken away, it ends without a restart.
    world.run(&["tokens", "remove", "bob", "--file", text(&tokens)]).await.expect(0);
    wait_async("the token is forgotten", async || {
        let tried = by_token(&[("PALINURUS_TOKEN", &token)], &["backup", "list"]).await;
        (tried.code == 7).then_some(())
    })
    .await;

    world.stop().await;
    let audit = world.path("coordinator").join("audit.log");
    let shown = world.run(&["audit", "show", text(&audit)]).await.expect(0).json();
    let lines = shown["lines"].as_array().unwrap();
    let found = |who: &str, rpc: &str, event: &str| {
        lines
            .iter()
            .find(|line| line["who"] == who && line["rpc"] == rpc && line["event"] == event)
            .unwrap_or_else(|| panic!("{who} {rpc} {event}: {lines:#?}"))
    };
    assert_eq!(found("vera", "StartBackup", "refused")["request"]["service"], SERVICE);
    assert_eq!(found("bob", "StartBackup", "asked")["by"], "token");
    let answered = found("bob", "StartBackup", "answered");
    assert!(answered["outcome"] == "ok" && !answered["operation"].as_str().unwrap().is_empty(), "{answered}");
    assert_eq!(found("bob", "DeleteBackup", "refused")["request"]["backup"].as_str().unwrap().len(), 32);
    assert_eq!(found("tester", "ApplyService", "asked")["request"]["service"]["name"], SERVICE);
    let text_of = fs::read_to_string(&audit).unwrap();
    assert!(!text_of.contains(&token[4..]));
    world.run(&["audit", "verify", text(&audit)]).await.expect(0);
    fs::write(&audit, text_of.replacen("\"vera\"", "\"adam\"", 1)).unwrap();
    world.run(&["audit", "verify", text(&audit)]).await.expect(6);
}

/// How a session of that holder's as n1 is refused.
async fn refused(world: &World, certs: &Certs, who: &Issued) -> Result<String, tonic::Status> {
    let hello = v1::Hello {
        service: SERVICE.into(),
        node: "n1".into(),
        instance: "somebody".into(),
        engine: "files".into(),
        protocol: palinurus_proto::PROTOCOL,
        ..Default::default()
    };
    let mut client = FleetClient::new(channel(world, certs, who).await);
    let first = v1::AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
    let told = client.session(tokio_stream::once(first)).await?.into_inner().message().await?;
    match told.and_then(|told| told.message) {
        Some(coordinator_message::Message::Refused(refused)) => Ok(refused.failure.unwrap().kind),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_service_or_node_reaches_nothing() {
    let mut world = World::encrypted(&["n1"]);
    world.start().await;
    let certs = world.certs.clone().unwrap();
    let agent = |service: &str, node: &str, spare| {
        certs.agent(service, node, spare);
        certs.path(&format!("agent-{node}@{service}"))
    };
    let operator = certs.operator("ada", Role::Admin);
    // Another service's, another node's, and a spare's where the place is no spare's.
    for who in [agent("other", "n1", false), agent(SERVICE, "n2", false), agent("n1", SERVICE, false)] {
        assert_eq!(refused(&world, &certs, &who).await.unwrap(), "denied");
    }
    let status = refused(&world, &certs, &operator).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let foreign = agent("other", "n1", false);
    let mut client = FleetClient::new(channel(&world, &certs, &foreign).await);
    let open = v1::ClaimOpen { service: SERVICE.into(), node: "n1".into(), ..Default::default() };
    let first = v1::ClaimRequest { message: Some(v1::claim_request::Message::Open(open)) };
    let mut claims = client.claim(tokio_stream::once(first)).await.unwrap().into_inner();
    assert_eq!(claims.message().await.unwrap_err().code(), Code::PermissionDenied);

    // Not even its own service's operations: an agent is told what it has to do.
    for arguments in [&["operation", "list"][..], &["backup", "list"], &["service", "list"]] {
        let denied = run_as(&world, &foreign, arguments).await.expect(7);
        assert!(denied.stderr.contains("agent other/n1 may not call"), "{}", denied.stderr);
    }
    // The true one has its place still.
    world.is_there("n1").await;
    // A spare's certificate is for spares; with the same name the node's own is gone from the disk now.
    world.stop_agent("n1").await;
    let spare = agent(SERVICE, "n1", true);
    assert_eq!(refused(&world, &certs, &spare).await.unwrap(), "denied");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_certificate_is_said() {
    let mut world = World::encrypted(&["n1"]);
    world.start().await;
    let certs = world.certs.clone().unwrap();
    let ada = certs.operator("ada", Role::Viewer);
    let list = &["backup", "list"];

    let elsewhere = Certs::new(&world.path("elsewhere"));
    let stranger = elsewhere.operator("ada", Role::Admin);
    let unknown = run_as(&world, &stranger, list).await.expect(7);
    assert!(unknown.stderr.contains("another authority signed it"), "{}", unknown.stderr);

    let mut command = palinurus();
    command.args(["--json", "--server", &world.server(), "--ca"]).arg(elsewhere.ca()).args(list);
    let wrong_ca = run(command).await.expect(7);
    assert!(wrong_ca.stderr.contains("an authority that is not ours"), "{}", wrong_ca.stderr);

    let mut command = palinurus();
    command.args(["--json", "--server", &world.server(), "--ca"]).arg(certs.ca()).args(list);
    let none = run(command).await.expect(7);
    assert!(none.stderr.contains("wants a certificate"), "{}", none.stderr);

    let mixed = Issued { certificate: ada.certificate.clone(), key: stranger.key.clone() };
    let mixed = run_as(&world, &mixed, list).await.expect(2);
    assert!(mixed.stderr.contains("is not that of the certificate"), "{}", mixed.stderr);

    // Expired: issued for a second, which passes.
    let dir = world.path("certs");
    let issue =
        ["certs", "issue", text(&dir), "operator", "--name", "old", "--role", "viewer", "--valid", "1s"];
    world.run(&issue).await.expect(0);
    let old = certs.path("operator-old");
    wait_async("the certificate expires", async || {
        let shown = world.run(&["certs", "show", text(&old.certificate)]).await;
        (shown.code == 3).then_some(())
    })
    .await;
    let expired = run_as(&world, &old, list).await.expect(7);
    assert!(expired.stderr.contains("expired"), "{}", expired.stderr);

    // Plain to TLS, TLS to plain.
    let mut command = palinurus();
    command.args(["--json", "--server", &world.server().replace("https", "http")]).args(list);
    let plain = run(command).await.expect(2);
    assert!(plain.stderr.contains("https://"), "{}", plain.stderr);
    let mut open = World::new(&[]);
    open.start_coordinator().await;
    let mut command = palinurus();
    command
        .args(["--json", "--server", &open.server().replace("http", "https"), "--ca"])
        .arg(certs.ca())
        .args(list);
    let encrypted = run(command).await.expect(2);
    assert!(encrypted.stderr.contains("does not speak TLS"), "{}", encrypted.stderr);
    open.stop().await;

    // An address that the certificate is not for.
    let mut command = palinurus();
    command
        .args(["--json", "--server", &world.server().replace("127.0.0.1", "localhost"), "--ca"])
        .arg(certs.ca());
    command.arg("--cert").arg(&ada.certificate).arg("--cert-key").arg(&ada.key).args(list);
    let named = run(command).await.expect(7);
    assert!(named.stderr.contains("is not for that address"), "{}", named.stderr);
    world.stop().await;
}

/// What leaked is taken back: its connections end at once, no new one comes about, and everybody else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_out_within_seconds() {
    let mut world = World::encrypted(&["n1", "n2"]);
    world.start().await;
    world.backup().await;
    let certs = world.certs.clone().unwrap();
    let dir = world.path("certs");
    let ada = certs.operator("ada", Role::Admin);
    let list = &["backup", "list"];
    run_as(&world, &ada, list).await.expect(0);
    let mut watching = v1::coordinator_client::CoordinatorClient::new(channel(&world, &certs, &ada).await);
    watching.get_cluster(v1::GetClusterRequest {}).await.unwrap();

    world.run(&["certs", "revoke", text(&dir), text(&ada.certificate)]).await.expect(0);
    let lost = world
        .run(&["certs", "revoke", text(&dir), "--who", &format!("palinurus://service/{SERVICE}/node/n2")])
        .await
        .expect(0)
        .json();
    assert_eq!((lost["serials"].as_array().unwrap().len(), lost["count"].as_u64()), (1, Some(2)));
    // A connection that was open before asks for nothing any more.
    wait_async("the operator's connection is closed", async || {
        let asked = watching.get_cluster(v1::GetClusterRequest {}).await;
        asked.is_err().then_some(())
    })
    .await;
    let out = run_as(&world, &ada, list).await.expect(7);
    assert!(out.stderr.contains("has been revoked"), "{}", out.stderr);
    wait_async("the agent's session is over", async || (!world.node("n2").await.connected).then_some(()))
        .await;
    // Nobody else is disturbed.
    world.is_there("n1").await;
    let other = fs::read_to_string(world.path("n1.log")).unwrap();
    assert!(!other.contains("has been revoked"), "{other}");
    wait_async("the agent says why", async || {
        let log = fs::read_to_string(world.path("n2.log")).unwrap();
        log.contains("has been revoked").then_some(())
    })
    .await;
    // With a new one it is back, without a restart.
    certs.agent(SERVICE, "n2", false);
    wait_async("the agent is back", async || world.node("n2").await.connected.then_some(())).await;
    world.backup().await;

    // A list that is not our authority's changes nothing, and is said.
    let elsewhere = Certs::new(&world.path("elsewhere"));
    fs::copy(elsewhere.ca().with_file_name("revoked.pem"), dir.join("revoked.pem")).unwrap();
    let log = world.path("coordinator.log");
    wait_async("the wrong list is noticed", async || {
        world.run(list).await.expect(0);
        fs::read_to_string(&log).unwrap().contains("is not of our authority").then_some(())
    })
    .await;
    run_as(&world, &ada, list).await.expect(7);
    let unknown = ["certs", "revoke", text(&dir), "--who", "palinurus://operator/nobody?role=admin"];
    let unknown = world.run(&unknown).await.expect(1);
    assert!(unknown.stderr.contains("nothing was issued to"), "{}", unknown.stderr);
    let no_number = world.run(&["certs", "revoke", text(&dir), "--serial", "xyz"]).await.expect(2);
    assert!(no_number.stderr.contains("certs show"), "{}", no_number.stderr);

    // A coordinator's: who reads the list speaks to it no longer.
    let coordinator = certs.path("coordinator-c").certificate;
    world.run(&["certs", "revoke", text(&dir), text(&coordinator)]).await.expect(0);
    let read = ["--revoked", text(&dir.join("revoked.pem")), "backup", "list"].map(str::to_owned);
    let warned = world.run(&read).await.expect(7);
    assert!(warned.stderr.contains("has been revoked"), "{}", warned.stderr);
    world.run(list).await.expect(0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_a_coordinator_that_runs() {
    let mut world = World::encrypted(&["n1"]);
    world.start().await;
    let certs = world.certs.clone().unwrap();
    let mine = certs.path("coordinator-c");
    let before = fs::read(&mine.certificate).unwrap();
    // Broken: what was there before goes on, and the log says so.
    fs::write(&mine.certificate, "nothing").unwrap();
    let log = world.path("coordinator.log");
    wait_async("the broken file is noticed", async || {
        world.run(&["backup", "list"]).await.expect(0);
        fs::read_to_string(&log).unwrap().contains("going on with what was there before").then_some(())
    })
    .await;
    // A new one is taken by new connections, and the session goes on.
    certs.coordinator("c", "127.0.0.1");
    assert_ne!(fs::read(&mine.certificate).unwrap(), before);
    wait_async("the new one is in force", async || {
        world.run(&["backup", "list"]).await.expect(0);
        fs::read_to_string(&log).unwrap().contains("have changed and are in force").then_some(())
    })
    .await;
    world.is_there("n1").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_unencrypted_unasked_or_to_another_machine() {
    let world = World::new(&[]);
    let config = world.path("coordinator.toml");
    let settings = |listen: &str| {
        format!("listen = {listen:?}\nstate = {:?}\nkeys = [{:?}]\n", world.path("state"), world.key())
    };
    fs::create_dir_all(world.path("state")).unwrap();
    fs::write(&config, settings("127.0.0.1:0")).unwrap();
    let unasked = world.run(&["coordinator", "--config", text(&config)]).await.expect(7);
    assert!(unasked.stderr.contains("certs init"), "{}", unasked.stderr);
    for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:7410"] {
        fs::write(&config, settings(listen)).unwrap();
        let asked = ["coordinator", "--insecure-plaintext", "--config", text(&config)];
        let refused = world.run(&asked).await.expect(7);
        assert!(refused.stderr.contains("other machines"), "{}", refused.stderr);
    }
    let refused = world.run(&["--server", "http://10.0.0.1:7410", "backup", "list"]).await.expect(7);
    assert!(refused.stderr.contains("https://"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_made_shown_and_not_overwritten() {
    let world = World::new(&[]);
    let dir = world.path("certs");
    world.run(&["certs", "init", text(&dir)]).await.expect(0);
    let ca = fs::read(dir.join("ca.pem")).unwrap();
    world.run(&["certs", "init", text(&dir)]).await.expect(4);
    assert_eq!(fs::read(dir.join("ca.pem")).unwrap(), ca);
    let issue = ["certs", "issue", text(&dir), "coordinator", "--name", "c1", "--address", "db.example"];
    let made = world.run(&issue).await.expect(0).json();
    assert_eq!(made["who"], "palinurus://coordinator/c1");
    let addresses: Vec<&str> =
        made["addresses"].as_array().unwrap().iter().filter_map(|a| a.as_str()).collect();
    assert!(addresses.contains(&"db.example") && addresses.contains(&"127.0.0.1"), "{addresses:?}");
    assert!((364..=365).contains(&made["days_left"].as_u64().unwrap()), "{made}");
    world.run(&issue).await.expect(4);
    world.run(&[&issue[..], &["--renew"]].concat()).await.expect(0);
    for key in ["ca.key", "coordinator-c1.key"] {
        assert_eq!(fs::metadata(dir.join(key)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let bad = ["certs", "issue", text(&dir), "operator", "--name", "../x", "--role", "admin"];
    world.run(&bad).await.expect(2);
    let none = world.path("nowhere");
    let missing =
        world.run(&["certs", "issue", text(&none), "operator", "--name", "x", "--role", "admin"]).await;
    assert!(missing.code == 1 && missing.stderr.contains("certs init"), "{}", missing.stderr);
}
