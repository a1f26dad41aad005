//! Strangers and an agent gone bad do what they can to a coordinator. Its memory stays in bounds, what they hold is taken
//! from them, and the other service's agent and operators notice nothing.
use std::net::SocketAddr;
use std::time::Duration;

use palinurus_identity::Issued;
use palinurus_proto::v1::{self, agent_message::Message, fleet_client::FleetClient};
use palinurus_tests::World;
use palinurus_tests::certs::Certs;
use palinurus_tests::seeded::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const OTHER: &str = "other";
/// What all of it together may cost.
const MEMORY: u64 = 384 << 20;
/// As the coordinator has them.
const OF_AN_AGENT: usize = 8;
const KNOCKING_EACH: usize = 32;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Another machine, as far as addresses go: what it spoils for itself it does not spoil for 127.0.0.1.
async fn stranger(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.2:0".parse().unwrap())?;
    socket.connect(to).await
}

/// Until the coordinator closes it, saying one of `bytes` a second.
async fn until_closed(mut stream: TcpStream, bytes: &[u8]) {
    let mut said = bytes.iter();
    let mut answer = [0; 512];
    loop {
        match timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => {}
            Err(_) => {
                if let Some(byte) = said.next() {
                    let _ = stream.write_all(&[*byte]).await;
                }
            }
        }
    }
}

/// Half-open handshakes, handshakes of a byte a second, and noise, more than one address may have.
async fn strangers(to: SocketAddr) -> usize {
    let mut random = Random::new(51);
    let mut all = JoinSet::new();
    for number in 0..6 * KNOCKING_EACH {
        let Ok(mut stream) = stranger(to).await else { continue };
        let said = match number % 3 {
            0 => Vec::new(),
            1 => [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat(),
            _ => {
                let _ = stream.write_all(&random.bytes(1000)).await;
                Vec::new()
            }
        };
        all.spawn(async move { until_closed(stream, &said).await });
    }
    let began = Instant::now();
    let count = all.len();
    all.join_all().await;
    assert!(began.elapsed() < HANDSHAKE + Duration::from_secs(60), "{:?}", began.elapsed());
    count
}

async fn channels(world: &World, certs: &Certs, who: &Issued, count: usize) -> Vec<Channel> {
    let mut all = Vec::new();
    for _ in 0..count {
        let Ok(channel) = certs.dialer(who).connect(&world.server().parse().unwrap(), |e| e).await else {
            continue;
        };
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        if health.check(tonic_health::pb::HealthCheckRequest::default()).await.is_ok() {
            all.push(channel);
        }
    }
    all
}

fn hello(padding: usize) -> v1::AgentMessage {
    let hello = v1::Hello {
        service: OTHER.into(),
        node: "n1".into(),
        instance: "x".repeat(padding.max(1)),
        engine: "files".into(),
        protocol: palinurus_proto::PROTOCOL,
        ..Default::default()
    };
    v1::AgentMessage { message: Some(Message::Hello(hello)) }
}

/// Messages as long as they may be, on as many streams as it gets, again and again.
async fn long_messages(channel: Channel, sent: mpsc::Sender<()>) {
    let mut all = JoinSet::new();
    for _ in 0..4 {
        let (channel, sent) = (channel.clone(), sent.clone());
        all.spawn(async move {
            loop {
                let mut client = FleetClient::new(channel.clone());
                let call = client.session(tokio_stream::once(hello(4 << 20))).await;
                if let Ok(told) = call {
                    let mut told = told.into_inner();
                    while let Ok(Some(_)) = told.message().await {}
                }
                if sent.send(()).await.is_err() {
                    return;
                }
            }
        });
    }
    all.join_all().await;
}

/// A session like any other, that never stops talking.
async fn endless(channel: Channel, sent: mpsc::Sender<()>) {
    let (say, said) = mpsc::channel(16);
    let mut client = FleetClient::new(channel);
    let mut told = client.session(ReceiverStream::new(said)).await.unwrap().into_inner();
    say.send(hello(1)).await.unwrap();
    told.message().await.unwrap().unwrap();
    let failure = v1::Failure { message: "x".repeat(3000), ..Default::default() };
    let report = v1::TaskReport {
        operation: "0123456789abcdef".into(),
        task: "upload".into(),
        failure: Some(failure),
        ..Default::default()
    };
    let message = v1::AgentMessage { message: Some(Message::Report(report)) };
    while say.send(message.clone()).await.is_ok() && sent.send(()).await.is_ok() {}
}

/// Counts, and ends those who send when it is dropped.
fn counted(into: &mut mpsc::Receiver<()>) -> usize {
    std::iter::from_fn(|| into.try_recv().ok()).count()
}

fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_cost_their_own_and_nobody_else() {
    let mut world = World::encrypted(&["n1"]);
    std::fs::write(world.data("n1").join("file"), Random::new(50).bytes(4 << 20)).unwrap();
    world.start().await;
    world.backup().await;
    let other = v1::Service {
        name: OTHER.into(),
        r#type: "files".into(),
        repository: format!("{}-other", world.repository_url()),
        nodes: vec![v1::NodeSpec { name: "n1".into(), ..Default::default() }],
        ..Default::default()
    };
    world
        .client()
        .await
        .apply_service(v1::ApplyServiceRequest { service: Some(other), ..Default::default() })
        .await
        .unwrap();
    let certs = world.certs.clone().unwrap();
    certs.agent(OTHER, "n1", false);
    let bad = certs.path(&format!("agent-n1@{OTHER}"));
    let pid = world.coordinator().pid();
    let before = most_memory(pid);

    let open = channels(&world, &certs, &bad, OF_AN_AGENT + 4).await;
    assert_eq!(open.len(), OF_AN_AGENT, "one holder's connections");
    let (long, mut longs) = mpsc::channel(100_000);
    let (talk, mut talks) = mpsc::channel(1_000_000);
    let mut floods = JoinSet::new();
    floods.spawn(endless(open[0].clone(), talk));
    for channel in &open[1..] {
        floods.spawn(long_messages(channel.clone(), long.clone()));
    }
    let knocked = tokio::spawn(strangers(world.server().trim_start_matches("https://").parse().unwrap()));

    let (mut backups, mut longest) = (0, Duration::ZERO);
    // However slow the machine is, the floods happen.
    let flooded = || longs.len() > 10 && talks.len() > 1000;
    while !knocked.is_finished() || backups < 3 || !flooded() {
        let began = Instant::now();
        std::fs::write(world.data("n1").join("file"), Random::new(backups).bytes(1 << 20)).unwrap();
        world.backup().await;
        world.run(&["backup", "list"]).await.expect(0);
        (backups, longest) = (backups + 1, longest.max(began.elapsed()));
    }
    let knocked = knocked.await.unwrap();
    let (longs, talks) = (counted(&mut longs), counted(&mut talks));
    let grown = most_memory(pid).saturating_sub(before);
    eprintln!(
        "{knocked} strangers, {longs} messages of 4 MiB, {talks} reports; {backups} backups, the longest with its list \
         {longest:.1?}; {} MiB more memory at the most",
        grown >> 20
    );
    assert!(knocked > 3 * KNOCKING_EACH, "the floods happen");
    assert!(grown < MEMORY, "{} MiB", grown >> 20);
    floods.shutdown().await;
    world.is_there("n1").await;
    world.stop().await;
}
