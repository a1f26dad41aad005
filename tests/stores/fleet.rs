//! Coordinator and agents as real processes, their repository in an object store.
use std::fs;
use std::path::PathBuf;

use palinurus_proto::v1;
use palinurus_repository::storage::{self, list_all};
use palinurus_tests::seeded::Random;
use palinurus_tests::store::proxy::Fault;
use palinurus_tests::store::{Faults, Proxy, Server};
use palinurus_tests::world::files_below;
use palinurus_tests::{World, compare, oddities};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// What an unchanged backup may cost, and one more for each node.
const UNCHANGED: u64 = 10;
/// What a terabyte may cost.
const PUTS_PER_TERABYTE: u64 = 31_000;

/// Some of it on all nodes, some of it on one. Old enough not to be read again.
fn fill(world: &World, nodes: &[&str], random: &mut Random) {
    let shared = random.bytes(3 << 20);
    for node in nodes {
        let data = world.data(node);
        fs::create_dir_all(data.join("small")).unwrap();
        fs::write(data.join("shared"), &shared).unwrap();
        fs::write(data.join("own"), random.bytes(1 << 20)).unwrap();
        for i in 0..20 {
            let length = random.below(20_000) as usize;
            fs::write(data.join(format!("small/{i}")), random.bytes(length)).unwrap();
        }
        for file in files_below(&data).iter().filter(|path| path.is_file()) {
            oddities::age(file);
        }
    }
}

fn requests(operation: &v1::Operation) -> v1::Requests {
    operation.progress.and_then(|progress| progress.requests).expect("requests are counted")
}

/// The node's data goes, comes back from the latest backup, and is what it was.
async fn comes_back(world: &World, node: &str) {
    let want = world.move_data(node);
    world.restore(node, false).await;
    compare::assert_equal(&want, &world.data(node), &[]);
    fs::remove_dir_all(want).unwrap();
}

/// Backup, unchanged backup, changed backup, restore, deletion, check.
async fn lives_on(server: &Server) {
    let mut world = World::new(&NODES);
    let mut random = Random::new(11);
    fill(&world, &NODES, &mut random);
    world.keep_repository_at(server.url("fleet"));
    world.start().await;
    world.backup().await;
    let unchanged = world.backup().await;
    assert_eq!(unchanged.progress.unwrap().bytes_stored, 0);
    fs::write(world.data("n2").join("own"), random.bytes(2 << 20)).unwrap();
    world.backup().await;
    for node in NODES {
        comes_back(&world, node).await;
    }
    world.run(&["backup", "delete", "--yes", &world.backups().await[0].id]).await.expect(0);
    world.run(&["backup", "delete", "--yes", "latest"]).await.expect(0);
    world.run(&["repository", "check", "--read-data"]).await.expect(0);
    let aside = world.move_data("n2");
    world.restore("n2", false).await;
    let own = |dir: PathBuf| fs::read(dir.join("own")).unwrap();
    assert!(own(aside).len() == 2 << 20 && own(world.data("n2")).len() == 1 << 20, "the one before the last");
    let shown = world.run(&["operation", "show", &unchanged.id]).await.expect(0).json();
    assert_eq!(shown["requests"]["total"], requests(&unchanged).total());
    let who: Vec<_> =
        shown["requests"]["by"].as_array().unwrap().iter().map(|by| by["who"].clone()).collect();
    assert_eq!(who, ["coordinator", "n1", "n2", "n3"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_on_seaweedfs() {
    lives_on(&Server::weed().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_on_azurite() {
    lives_on(&Server::azurite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_on_fake_gcs_server() {
    lives_on(&Server::gcs().await).await;
}

/// The proxy counts what really goes over the wire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_backup_costs_ten_requests_and_one_a_node() {
    let server = Server::weed().await;
    for nodes in [&NODES[..1], &NODES[..]] {
        let proxy = Proxy::before(server.address, Faults::none()).await;
        let mut world = World::new(nodes);
        fill(&world, nodes, &mut Random::new(12));
        world.keep_repository_at(server.url_through(proxy.address, &format!("of-{}", nodes.len())));
        world.start().await;
        let first = world.backup().await;
        let before = proxy.requests();
        let second = world.backup().await;
        let seen = proxy.requests() - before;
        let counted = requests(&second);
        eprintln!("{} nodes: first {:?}, unchanged {seen}: {counted:?}", nodes.len(), requests(&first));
        assert!(seen <= UNCHANGED + nodes.len() as u64, "{seen} requests for {} nodes", nodes.len());
        assert_eq!(counted.total(), seen, "all are counted, and none twice");
        assert_eq!((counted.retries, counted.puts), (0, 2), "BEGIN and COMMIT");
        world.stop().await;
    }
}

/// Counted on some hundred MiB: every pack but each worker's last is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_terabyte_costs_few_puts() {
    const BYTES: usize = 200 << 20;
    let server = Server::weed().await;
    let mut world = World::new(&["n1"]);
    let mut random = Random::new(13);
    for i in 0..4 {
        fs::write(world.data("n1").join(format!("{i}")), random.bytes(BYTES / 4)).unwrap();
    }
    let url = server.url("cold");
    world.keep_repository_at(url.clone());
    world.start().await;
    let backup = world.backup().await;
    let packs = list_all(&*storage::open(&url).unwrap(), "t/").await.unwrap();
    let mut sizes: Vec<u64> =
        packs.iter().filter(|object| object.key.contains("/p/")).map(|object| object.size).collect();
    sizes.sort_unstable();
    let last = std::thread::available_parallelism().unwrap().get().min(4);
    let full = &sizes[last..];
    assert!(!full.is_empty(), "{sizes:?}");
    let per_terabyte = 1_000_000_000_000 * full.len() as u64 / full.iter().sum::<u64>();
    assert!(per_terabyte <= PUTS_PER_TERABYTE, "{per_terabyte}: {sizes:?}");
    let asked = requests(&backup);
    let others = asked.puts - sizes.len() as u64;
    eprintln!("{per_terabyte} puts for a terabyte; {} packs and {others} others: {asked:?}", sizes.len());
    assert!(others <= 4, "BEGIN, index segment, manifest, COMMIT: {others}");
    assert!(asked.bytes_sent >= BYTES as u64);
    world.stop().await;
}

/// One request in five suffers, whoever makes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_behind_a_bad_network() {
    for (server, seed) in [(Server::weed().await, 1), (Server::azurite().await, 2)] {
        let kinds = [&Fault::QUICK[..], &[Fault::Stalled]].concat();
        let proxy = Proxy::before(server.address, Faults::none()).await;
        let mut world = World::new(&NODES[..2]);
        let mut random = Random::new(14);
        world.keep_repository_at(server.url_through(proxy.address, "faults"));
        fill(&world, &NODES[..2], &mut random);
        world.start().await;
        proxy.set(Faults { seed, percent: 20, kinds });
        for round in 0..3 {
            fs::write(world.data("n1").join(format!("round-{round}")), random.bytes(100_000)).unwrap();
            world.backup().await;
            comes_back(&world, NODES[round % 2]).await;
        }
        world.run(&["backup", "delete", "--yes", &world.backups().await[0].id]).await.expect(0);
        eprintln!("{} of {} requests faulty", proxy.faulty(), proxy.requests());
        // One in five of those that came since; names are drawn, and with them who suffers.
        assert!(proxy.faulty() * 25 > proxy.requests(), "the faults happen");
        proxy.set(Faults::none());
        assert_eq!(world.backups().await.len(), 2);
        world.run(&["repository", "check", "--read-data"]).await.expect(0);
        for node in &NODES[..2] {
            comes_back(&world, node).await;
            world.nothing_left_behind(node).await;
        }
        world.stop().await;
    }
}
