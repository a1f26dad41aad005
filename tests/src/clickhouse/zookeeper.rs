//! A ZooKeeper of a test's own, and as much of its protocol as makes nodes.
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::store::free_ports;
use crate::world::wait;

const JAR: &str = "/usr/share/java/zookeeper.jar";
/// For each answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Kinds of requests.
const CREATE: i32 = 1;
const DELETE: i32 = 2;

#[derive(Debug)]
pub struct ZooKeeper {
    pub port: u16,
    directory: PathBuf,
    server: Option<Process>,
}

impl ZooKeeper {
    pub async fn start(directory: &Path) -> Self {
        assert!(Path::new(JAR).exists(), "no {JAR}: apt-get install zookeeper, or run tests/run");
        let [port] = free_ports();
        let mut new = Self { port, directory: directory.to_owned(), server: None };
        new.run().await;
        new
    }

    async fn run(&mut self) {
        let (directory, port) = (&self.directory, self.port);
        fs::create_dir_all(directory).unwrap();
        let config = directory.join("zoo.cfg");
        let text = format!(
            "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            directory.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("java");
        command.args(["-Xmx128m", "-Dzookeeper.preAllocSize=1024", "-cp", JAR]);
        command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(&config).current_dir(directory);
        let mut server = Process::start("ZooKeeper", command, &directory.join("output.log"));
        wait("ZooKeeper answers", || {
            server.check();
            session(port).ok()
        })
        .await;
        self.server = Some(server);
    }

    /// All that it knew is gone.
    pub async fn renew(&mut self) {
        self.server.take().expect("it runs").kill();
        fs::remove_dir_all(&self.directory).unwrap();
        self.run().await;
    }

    /// Nodes and what they hold, over one connection: a client of Java's takes a second to start.
    pub fn create(&self, nodes: &[(&str, &str)]) {
        let mut stream = session(self.port).unwrap();
        for (number, (path, data)) in (1i32..).zip(nodes) {
            let anyone = [&31i32.to_be_bytes()[..], &framed(b"world"), &framed(b"anyone")].concat();
            let request = [
                &number.to_be_bytes()[..],
                &CREATE.to_be_bytes(),
                &framed(path.as_bytes()),
                &framed(data.as_bytes()),
                &1i32.to_be_bytes(),
                &anyone,
                &[0; 4],
            ];
            let answer = exchange(&mut stream, &request.concat()).unwrap();
            assert_eq!(refusal(&answer), 0, "ZooKeeper does not make {path}");
        }
    }

    pub fn delete(&self, path: &str) {
        let mut stream = session(self.port).unwrap();
        // Of any version.
        let request = [
            &1i32.to_be_bytes()[..],
            &DELETE.to_be_bytes(),
            &framed(path.as_bytes()),
            &(-1i32).to_be_bytes(),
        ];
        let answer = exchange(&mut stream, &request.concat()).unwrap();
        assert_eq!(refusal(&answer), 0, "ZooKeeper does not delete {path}");
    }
}

/// Behind the number and the transaction.
fn refusal(answer: &[u8]) -> i32 {
    i32::from_be_bytes(answer[12..16].try_into().unwrap())
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat()
}

/// A server that is not serving yet closes the connection, though it says `imok`.
fn session(port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // Version, last transaction seen, timeout in ms, session, its password.
    let session = [&0i32.to_be_bytes()[..], &[0; 8], &10_000i32.to_be_bytes(), &[0; 8], &framed(&[0; 16])];
    exchange(&mut stream, &session.concat())?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(&framed(request))?;
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
