//! A service is powered off, its machines go, and others come: what was there comes back. Coordinators are killed on the way.
use std::fs;
use std::path::PathBuf;

use palinurus_proto::v1::{self, PowerState};
use palinurus_tests::World;
use palinurus_tests::archive::{backup, quiet, stored};
use palinurus_tests::compare::assert_equal;
use palinurus_tests::postgres::Postgres;
use palinurus_tests::world::{SERVICE, files_below, wait, wait_async};

async fn power(world: &World) -> Option<v1::Power> {
    let request = v1::GetServiceRequest { service: SERVICE.into() };
    Some(world.client().await.get_service(request).await.ok()?.into_inner().power.unwrap_or_default())
}

/// Once it is so.
async fn until(world: &World, what: &str, wanted: impl Fn(&v1::Power) -> bool) -> v1::Power {
    wait_async(what, async || power(world).await.filter(|power| wanted(power))).await
}

/// kill -9, and another takes its place.
async fn kill_coordinator(world: &mut World) {
    world.kill_coordinator();
    world.start_coordinator().await;
}

/// Its machine, and the data with it. Returns where that is now.
fn lose(world: &mut World, node: &str) -> PathBuf {
    world.kill_agent(node);
    let aside = world.move_data(node);
    fs::remove_dir_all(world.agent_state(node)).unwrap();
    aside
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_back_onto_machines_that_register_anew() {
    let mut world = World::new(&["n1", "n2"]);
    for node in ["n1", "n2"] {
        fs::write(world.data(node).join("name"), node).unwrap();
        fs::write(world.data(node).join("bytes"), node.repeat(900_000)).unwrap();
    }
    world.start().await;
    let off = ["service", "power-off", SERVICE];
    let refused = world.run(&off).await.expect(2);
    assert!(refused.error()["hint"].as_str().unwrap().contains("--yes"), "{}", refused.stderr);
    world.run(&[&off[..], &["--yes", "--detach"]].concat()).await.expect(0);
    kill_coordinator(&mut world).await;
    let shown = world.run(&[&off[..], &["--yes"]].concat()).await.expect(0).json();
    assert_eq!((&shown["power"]["state"], &shown["standing"]["health"]), (&"off".into(), &"off".into()));
    let backups = world.backups().await;
    assert_eq!(backups.len(), 1, "one last backup, however often it was asked for");
    assert!(backups[0].kept_for[0].contains("the service is not on"), "{backups:#?}");
    let kept = ["n1", "n2"].map(|node| lose(&mut world, node));

    let on = ["service", "power-on", SERVICE];
    world.start_agent("n1");
    world.seen_empty("n1").await;
    let shown = world.run(&[&on[..], &["--detach"]].concat()).await.expect(0).json();
    assert_eq!(shown["power"]["state"], "starting", "{shown:#}");
    until(&world, "who is missing is said", |power| power.why.contains("n2 is not connected")).await;
    kill_coordinator(&mut world).await;
    world.start_agent("n2");
    world.run(&on).await.expect(0);
    for (node, kept) in ["n1", "n2"].into_iter().zip(&kept) {
        assert_equal(kept, &world.data(node), &[]);
    }
    world.backup().await;

    // It is deleted when it is off again, and not before.
    let delete = ["service", "delete", SERVICE, "--yes"];
    let refused = world.run(&delete).await.expect(4);
    assert!(refused.error()["hint"].as_str().unwrap().contains("power-off"), "{}", refused.stderr);
    world.run(&[&off[..], &["--yes", "--no-backup"]].concat()).await.expect(0);
    assert_eq!(world.run(&delete).await.expect(0).json()["deleted"], true);
    assert_eq!(files_below(&world.repository().join("t")).iter().filter(|path| path.is_file()).count(), 0);
    let audit = fs::read_to_string(world.path("coordinator/audit.log")).unwrap();
    for rpc in ["PowerOff", "PowerOn", "DeleteService"] {
        assert!(audit.contains(rpc), "{rpc}");
    }
}

/// Ends with the test, by whomever it was started.
struct Started<'a>(&'a [&'a Postgres]);

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|server| server.end_started());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_cluster_comes_back_to_the_end_of_its_log_with_its_replica() {
    let mut world = World::new(&["n1", "n2"]);
    world.kind = "postgresql".into();
    let sockets: Vec<String> =
        ["n1", "n2"].iter().map(|node| world.path(node).join("socket").display().to_string()).collect();
    world.engine = format!(
        "host = \"{{node}}/socket\"\narchive = true\nstart = {:?}\n\
         primary_conninfo = \"host={} user=postgres target_session_attrs=read-write\"\n",
        Postgres::start_command("{node}/data", "{node}/socket"),
        sockets.join(","),
    );
    let mut one = Postgres::create(&world.data("n1"));
    one.start(&[]).await;
    one.sql("create table t (id int primary key)");
    let mut two = one.standby(&world.data("n2"));
    two.start(&[]).await;
    world.start().await;
    stored(&world, &one).await;
    backup(&world).await;
    quiet(&world).await;
    one.sql("insert into t values (1), (2)");
    // Written after the newest backup, which is the last one.
    stored(&world, &one).await;
    world.run(&["service", "power-off", SERVICE, "--no-backup", "--yes"]).await.expect(0);
    one.kill().await;
    two.kill().await;
    for node in ["n1", "n2"] {
        fs::remove_dir_all(lose(&mut world, node)).unwrap();
        world.start_agent(node);
    }
    for node in ["n1", "n2"] {
        world.seen_empty(node).await;
    }
    let (one, two) = (one, two);
    let _started = [&one, &two];
    let _started = Started(&_started);
    let request = v1::PowerOnRequest { service: SERVICE.into(), delta: false };
    world.client().await.power_on(request).await.unwrap();
    kill_coordinator(&mut world).await;
    let on = until(&world, "it is on", |power| power.state() == PowerState::PowerOn).await;
    assert_eq!(on.why, "");
    let ids = "select string_agg(id::text, ' ' order by id) from t";
    let all = [&one, &two];
    let written = wait("one of them is written", || {
        all.iter().position(|server| server.try_sql("select pg_is_in_recovery()").is_ok_and(|is| is == "f"))
    })
    .await;
    assert_eq!(all[written].sql(ids), "1 2");
    all[written].sql("insert into t values (3)");
    wait("the other follows", || (all[1 - written].try_sql(ids).ok()? == "1 2 3").then_some(())).await;
    let failovers = world.failovers().await;
    assert_eq!(failovers.len(), 2, "{failovers:#?}");
    quiet(&world).await;
    world.stop().await;
}
