//! ClickHouse's disks, and its tables that have no parts.
use palinurus_proto::v1::OperationState;
use palinurus_repository::storage::{list_all, open};
use palinurus_tests::World;
use palinurus_tests::clickhouse::{ClickHouse, Version};
use palinurus_tests::store::Server;
use palinurus_tests::world::files_below;

use crate::clickhouse::{replicas, restored_afresh, restored_together, world};
use crate::drill::drill;

/// By itself a server moves parts from a disk of which less than a tenth is free, as of a machine that builds much.
const STAYS: &str = "<move_factor>0</move_factor>";

/// Two disks beside the first, one policy that spreads over both and one that goes from the first to the second.
fn disks(world: &World) -> String {
    let path = |name: &str| world.path("n1").join(name).display().to_string();
    format!(
        "<storage_configuration><disks><d1><path>{}/</path></d1><d2><path>{}/</path></d2>\
         <secret><type>encrypted</type><disk>d2</disk><path>secret/</path><key>sixteen bytes it</key></secret>\
         <objects><type>object_storage</type><object_storage_type>local</object_storage_type>\
         <metadata_type>local</metadata_type><path>{}/</path></objects></disks><policies>\
         <jbod><volumes><both><disk>d1</disk><disk>d2</disk></both></volumes></jbod>\
         <tiered><volumes><hot><disk>default</disk></hot><cold><disk>d2</disk></cold></volumes>{STAYS}</tiered>\
         <cooled><volumes><hot><disk>default</disk></hot><cold><disk>objects</disk></cold></volumes>{STAYS}</cooled>\
         </policies></storage_configuration>",
        path("d1"),
        path("d2"),
        path("objects")
    )
}

const LAID: &str = "SELECT table, disk_name, count(), sum(rows) FROM system.parts WHERE active AND database = 'd' \
                    GROUP BY table, disk_name ORDER BY table, disk_name";
const TABLES: [&str; 3] = ["jbod", "tiered", "one"];

fn seen(server: &ClickHouse) -> Vec<String> {
    TABLES
        .iter()
        .map(|table| server.sql(format!("SELECT count(), sum(cityHash64(a, s)) FROM d.{table}")))
        .collect()
}

/// What lies in `shadow` of any disk.
fn frozen(world: &World) -> Vec<String> {
    let shadows =
        ["data", "d1", "d2", "data/disks/objects"].map(|disk| world.path("n1").join(disk).join("shadow"));
    let names = shadows.iter().filter_map(|shadow| shadow.read_dir().ok()).flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "increment.txt").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_on_several_disks_come_back_to_them_or_to_the_first() {
    let (mut world, mut server) = world(Version::New).await;
    server.stop().await;
    server.configure(&disks(&world));
    server.start().await;
    server.sql("CREATE DATABASE d");
    for (table, more, settings) in [
        ("jbod", "PARTITION BY a % 3", "storage_policy = 'jbod', index_granularity = 100"),
        ("tiered", "PARTITION BY a % 3", "storage_policy = 'tiered'"),
        ("one", "", "disk = 'd1'"),
        ("aged", "", "storage_policy = 'tiered'"),
    ] {
        server.sql(format!(
            "CREATE TABLE d.{table} (a UInt64, s String) ENGINE = MergeTree {more} ORDER BY a SETTINGS {settings}"
        ));
        server.sql(format!("INSERT INTO d.{table} SELECT number, toString(number) FROM numbers(1000)"));
    }
    server.sql("ALTER TABLE d.tiered MOVE PARTITION ID '1' TO VOLUME 'cold'");
    // A volume that a policy has to have; nothing moves before 2070.
    server.sql("ALTER TABLE d.aged MODIFY TTL toDate(a) + INTERVAL 100 YEAR TO VOLUME 'cold'");
    let (before, laid) = (seen(&server), server.sql(LAID));
    for part in ["jbod\td1", "jbod\td2", "one\td1", "tiered\td2\t1\t333", "tiered\tdefault\t2\t667"] {
        assert!(laid.contains(part), "{part}: {laid}");
    }
    world.start().await;
    world.backup().await;
    assert_eq!(frozen(&world), Vec::<String>::new());
    let proved = drill(&world, &[]).await;
    assert_eq!(proved.state(), OperationState::Succeeded, "{:?} {:?}", proved.failure, proved.drill);

    let afresh = async |server: &mut ClickHouse, settings: &str| {
        server.stop().await;
        world.destroy_data("n1");
        for disk in ["d1", "d2"] {
            std::fs::remove_dir_all(world.path("n1").join(disk)).unwrap();
        }
        server.configure(settings);
        server.start().await;
        world.restore("n1", false).await;
    };
    afresh(&mut server, &disks(&world)).await;
    assert_eq!(seen(&server), before);
    assert_eq!(server.sql(LAID), laid);
    server.sql("CREATE TABLE d.hidden (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS disk = 'secret'");
    let operation = world.start_backup().await;
    let failure = world.ended(&operation.id).await.failure.unwrap();
    assert!(failure.message.contains("table d.hidden may lie on disk secret"), "{failure:?}");
    assert_eq!(frozen(&world), Vec::<String>::new());
    server.sql("DROP TABLE d.hidden SYNC");
    // A TTL needs its volume.
    server.sql("DROP TABLE d.aged SYNC");
    world.backup().await;
    assert_eq!(frozen(&world), Vec::<String>::new());
    // Without those disks all of it lies on the first.
    afresh(&mut server, "").await;
    assert_eq!(seen(&server), before);
    let laid = server.sql(LAID);
    assert!(!laid.contains("\td1") && !laid.contains("\td2"), "{laid}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_copied_once_and_stay_the_servers_own() {
    let (mut world, mut server) = world(Version::New).await;
    server.stop().await;
    let without = "<enable_system_unfreeze>false</enable_system_unfreeze>";
    server.configure(&format!("{}{without}", disks(&world)));
    server.start().await;
    server.sql("CREATE DATABASE d");
    for (table, settings) in [("cooled", "storage_policy = 'cooled'"), ("cold", "disk = 'objects'")] {
        server.sql(format!(
            "CREATE TABLE d.{table} (a UInt64, s UInt64) ENGINE = MergeTree PARTITION BY a % 2 ORDER BY a \
             SETTINGS {settings}"
        ));
        server.sql(format!("INSERT INTO d.{table} SELECT number, rand64() FROM numbers(20000)"));
    }
    server.sql("ALTER TABLE d.cooled MODIFY TTL toDate(a) + INTERVAL 100 YEAR TO VOLUME 'cold'");
    server.sql("ALTER TABLE d.cooled MOVE PARTITION ID '1' TO VOLUME 'cold'");
    let seen = |server: &ClickHouse| {
        ["cooled", "cold"]
            .map(|table| server.sql(format!("SELECT count(), sum(cityHash64(a, s)) FROM d.{table}")))
    };
    let before = seen(&server);
    let at = world.path("n1").join("objects");
    let objects = || files_below(&at);
    let there = objects();
    assert_ne!(there.len(), 0);
    world.start().await;
    let operation = world.start_backup().await;
    let failure = world.ended(&operation.id).await.failure.unwrap();
    assert!(failure.hint.contains("enable_system_unfreeze"), "{failure:?}");
    assert_eq!((frozen(&world), objects()), (Vec::new(), there.clone()));
    server.stop().await;
    server.configure(&disks(&world));
    server.start().await;
    for _ in 0..2 {
        world.backup().await;
        assert_eq!((frozen(&world), objects()), (Vec::new(), there.clone()));
    }
    let new = world.backups().await.iter().map(|backup| backup.nodes[0].bytes_new).min().unwrap();
    assert!(new < 50_000, "{new} bytes are new in a backup of the same");
    let proved = drill(&world, &[]).await;
    assert_eq!(proved.state(), OperationState::Succeeded, "{:?} {:?}", proved.failure, proved.drill);

    // A freeze takes none of them from the server, which removes them with their tables.
    server.sql("DROP DATABASE d SYNC");
    assert_eq!(objects(), Vec::<std::path::PathBuf>::new());
    restored_afresh(&world, &mut server).await;
    assert_eq!(seen(&server), before);
    server.sql("ALTER TABLE d.cooled MOVE PARTITION ID '0' TO VOLUME 'cold'");
    assert_eq!(seen(&server), before);
    world.backup().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_a_store_are_read_there_and_nothing_else_is_done_to_them() {
    let store = Server::weed_with_identities(&[("reader", &["Read"])]).await;
    let url = store.url("ch/disk");
    let (endpoint, _) = url.split_once("endpoint=").unwrap().1.split_once('&').unwrap();
    let disk = |more: &str| {
        format!(
            "<type>object_storage</type><object_storage_type>s3</object_storage_type><metadata_type>local</metadata_type>\
             <endpoint>{endpoint}/lab/ch/disk/{more}</endpoint><access_key_id>labkey</access_key_id>\
             <secret_access_key>labsecret</secret_access_key>"
        )
    };
    let (mut world, mut server) = world(Version::New).await;
    let settings = format!(
        "<storage_configuration><disks><far>{}</far><under>{}</under>\
         <before><type>cache</type><disk>under</disk><path>before/</path><max_size>100Mi</max_size></before></disks>\
         <policies><cooled><volumes><hot><disk>default</disk></hot><cold><disk>far</disk></cold></volumes>{STAYS}</cooled>\
         <cached><volumes><one><disk>before</disk></one></volumes></cached></policies></storage_configuration>",
        disk(""),
        disk("under/"),
    );
    server.stop().await;
    server.configure(&settings);
    server.start().await;
    server.sql("CREATE DATABASE d");
    let tables = [
        ("cooled", "storage_policy = 'cooled'"),
        ("cold", "disk = 'far', min_bytes_for_wide_part = 0"),
        ("cached", "storage_policy = 'cached'"),
    ];
    for (table, settings) in tables {
        server.sql(format!(
            "CREATE TABLE d.{table} (a UInt64, s UInt64) ENGINE = MergeTree PARTITION BY a % 2 ORDER BY a \
             SETTINGS {settings}"
        ));
        server.sql(format!("INSERT INTO d.{table} SELECT number, rand64() FROM numbers(20000)"));
    }
    server.sql("ALTER TABLE d.cooled MOVE PARTITION ID '1' TO VOLUME 'cold'");
    // More than is asked of the store at a time.
    server.sql("CREATE TABLE d.large (s String) ENGINE = MergeTree ORDER BY tuple() SETTINGS disk = 'far'");
    server.sql("INSERT INTO d.large SELECT randomString(1000000) FROM numbers(20)");
    let seen = |server: &ClickHouse| {
        let sums = tables.map(|(table, _)| format!("SELECT count(), sum(cityHash64(a, s)) FROM d.{table}"));
        let large = "SELECT count(), sum(cityHash64(s)) FROM d.large".to_owned();
        sums.into_iter().chain([large]).map(|sql| server.sql(sql)).collect::<Vec<_>>()
    };
    let frozen = |world: &World| {
        let shadows = ["data", "data/disks/far", "data/disks/under"];
        shadows
            .iter()
            .flat_map(|disk| files_below(&world.path("n1").join(disk).join("shadow")))
            .filter(|path| !path.ends_with("increment.txt"))
            .collect::<Vec<_>>()
    };
    let before = seen(&server);
    let owner = open(&store.url("ch")).unwrap();
    let there = list_all(&*owner, "").await.unwrap();
    assert!(there.iter().map(|object| object.size).sum::<u64>() > 20_000_000);
    world.start().await;
    let operation = world.start_backup().await;
    let failure = world.ended(&operation.id).await.failure.unwrap();
    assert!(failure.message.contains("may lie on disk"), "{failure:?}");
    assert!(failure.hint.contains("engine.objects."), "{failure:?}");

    // Of one who may do no more.
    let reader = store.path("reader");
    std::fs::write(&reader, "[default]\naws_access_key_id = reader\naws_secret_access_key = hunter2\n")
        .unwrap();
    let lines = [("far", ""), ("under", "/under")].map(|(disk, more)| {
        let url = format!("s3://lab/ch/disk{more}?endpoint={endpoint}&credentials={}", reader.display());
        format!("objects.{disk}.url = {url:?}\n")
    });
    world.engine = lines.concat();
    world.stop_agent("n1").await;
    world.start_agent("n1");
    world.joined().await;
    for _ in 0..2 {
        world.backup().await;
        assert_eq!(frozen(&world), Vec::<std::path::PathBuf>::new());
        assert_eq!(list_all(&*owner, "").await.unwrap(), there);
    }
    let mut read: Vec<u64> = world.backups().await.iter().map(|backup| backup.nodes[0].bytes_read).collect();
    read.sort_unstable();
    // A part of the first disk that is as young as the first backup may be read twice; none of the store's is.
    assert!(read[0] < 1_000_000 && read[1] > 20_000_000, "{read:?}: of what is known no byte is read");

    // A freeze takes none of them from the server, which removes them with their tables.
    server.sql("DROP DATABASE d SYNC");
    assert_eq!(list_all(&*owner, "").await.unwrap(), Vec::new());
    restored_afresh(&world, &mut server).await;
    assert_eq!(seen(&server), before);
    server.sql("ALTER TABLE d.cooled MOVE PARTITION ID '0' TO VOLUME 'cold'");
    assert_eq!(seen(&server), before);
    world.stop().await;
}

/// Tables that hold rows, and how they are asked for them.
fn rows(server: &ClickHouse) -> Vec<String> {
    ["stripes", "joined", "joined_all", "rocks"]
        .iter()
        .map(|table| server.sql(format!("SELECT count(), sum(a), sum(cityHash64(b)) FROM d.{table}")))
        .collect()
}

const NAMES: &str = "SELECT database, name, engine FROM system.tables WHERE database != 'system' \
                     AND lower(database) != 'information_schema' ORDER BY database, name FORMAT CSV";
const SHARED: &str = "SELECT count(), sum(k), sum(cityHash64(v)) FROM d.shared";

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_parts_come_back_and_what_replicas_share_comes_back_once() {
    let (mut world, mut servers, _keeper) = replicas(Version::New).await;
    for server in &servers {
        server.sql("CREATE DATABASE d");
        server.sql("CREATE TABLE d.shared (k UInt64, v String) ENGINE = KeeperMap('/shared') PRIMARY KEY k");
    }
    // More than one request to ZooKeeper can take.
    for from in [0, 10, 20, 30] {
        servers[1]
            .sql(format!("INSERT INTO d.shared SELECT number + {from}, repeat('v', 50000) FROM numbers(10)"));
    }
    let server = &servers[0];
    for (table, engine) in [
        ("stripes", "StripeLog"),
        ("joined", "Join(ANY, LEFT, a)"),
        ("joined_all", "Join(ALL, INNER, a)"),
        ("rocks", "EmbeddedRocksDB PRIMARY KEY a"),
    ] {
        server.sql(format!("CREATE TABLE d.{table} (a UInt64, b String) ENGINE = {engine}"));
        for _ in 0..2 {
            server.sql(format!(
                "INSERT INTO d.{table} SELECT number, concat('\\t\\n', toString(number)) FROM numbers(99)"
            ));
        }
    }
    for statement in [
        "CREATE TABLE d.src (id UInt64, v String) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO d.src VALUES (1, 'one')",
        "CREATE DICTIONARY d.a_dict (id UInt64, v String) PRIMARY KEY id \
         SOURCE(CLICKHOUSE(TABLE 'src' DB 'd' PASSWORD '')) LAYOUT(FLAT()) LIFETIME(0)",
        "CREATE TABLE d.url (a UInt64) ENGINE = URL('http://127.0.0.1:1/x', 'CSV')",
        "CREATE TABLE d.mysql (a UInt64) ENGINE = MySQL('127.0.0.1:1', 'db', 't', 'u', 'p\\'w')",
        "CREATE TABLE d.buffer AS d.src ENGINE = Buffer(d, src, 1, 10, 100, 10, 100, 10, 100)",
        "CREATE TABLE d.a_merge (id UInt64) ENGINE = Merge('d', '^src$')",
        "CREATE TABLE d.a_set (a UInt64) ENGINE = Set",
    ] {
        server.sql(statement);
    }
    let (before, names, shared) = (rows(server), server.sql(NAMES), server.sql(SHARED));
    world.start().await;
    world.backup().await;
    // The last to drop it takes the rows out of ZooKeeper.
    restored_together(&world, &mut servers, "DROP TABLE d.shared SYNC").await;
    for server in &servers {
        assert_eq!(server.sql(SHARED), shared);
    }
    let server = &servers[0];
    assert_eq!((rows(server), server.sql(NAMES)), (before, names));
    assert_eq!(server.sql("SELECT dictGet('d.a_dict', 'v', toUInt64(1)), count() FROM d.a_merge"), "one\t1");
    let path = server.sql("SELECT metadata_path FROM system.tables WHERE name = 'mysql'");
    let statement = std::fs::read_to_string(server.data.join(path)).unwrap();
    assert!(statement.contains("p\\'w"), "{statement}");

    // One node alone: what ZooKeeper has since is not written over.
    server.sql("INSERT INTO d.shared VALUES (1, 'since')");
    let since = server.sql(SHARED);
    servers[1].kill();
    world.destroy_data("n2");
    servers[1].start().await;
    world.restore("n2", false).await;
    assert_eq!(servers[1].sql(SHARED), since);
    world.stop().await;
}

/// Of bytes that are no UTF-8.
async fn odd_bytes(version: Version) {
    let (mut world, mut server) = world(version).await;
    let table = b"`\xff\xfed b`.`t\x80\xc3\x28`".as_slice();
    server.sql(b"CREATE DATABASE `\xff\xfed b`");
    server.sql([b"CREATE TABLE ", table, b" (a UInt64) ENGINE = MergeTree ORDER BY a"].concat());
    server.sql([b"INSERT INTO ", table, b" SELECT number FROM numbers(9)"].concat());
    server.sql(b"CREATE TABLE `\xff\xfed b`.`log\x80` (a UInt64) ENGINE = StripeLog");
    server.sql(b"INSERT INTO `\xff\xfed b`.`log\x80` VALUES (7)");
    world.start().await;
    world.backup().await;
    restored_afresh(&world, &mut server).await;
    assert_eq!(server.sql([b"SELECT count(), sum(a) FROM ", table].concat()), "9\t36");
    assert_eq!(server.sql(b"SELECT a FROM `\xff\xfed b`.`log\x80`"), "7");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_bytes_on_18() {
    odd_bytes(Version::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_bytes_on_26() {
    odd_bytes(Version::New).await;
}
