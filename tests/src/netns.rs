//! Hosts on a network of their own: each a network namespace, a veth pair from it to one bridge in a namespace of the
//! bridge's own. Nothing of the machine's network is touched, and everything goes when the test ends.
//!
//! Neighbours are entered by hand. So one direction between two hosts is cut by one entry that names a station that
//! is not there: packets are lost without a word, as on a real network, and no packet filter has to be installed.
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NAMESPACES: &str = "/run/netns";
/// A station that nobody is.
const NOBODY: &str = "02:70:61:6c:ff:ff";

#[derive(Debug)]
pub struct Net {
    /// Of the names of its namespaces: who made them, and which network of that process it is.
    prefix: String,
    hosts: Vec<Host>,
    netem: bool,
    cut: BTreeSet<(String, String)>,
    unplugged: BTreeSet<String>,
    slow: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct Host {
    pub name: String,
    pub address: Ipv4Addr,
    namespace: String,
    station: String,
}

impl Host {
    /// `command`, run on this host. `ip` becomes it: signals to the child reach it.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.stdin(Stdio::null());
        inside
    }

    /// Moves the calling thread there, and every thread and process that it starts from now on.
    pub fn enter(&self) {
        let file = fs::File::open(format!("{NAMESPACES}/{}", self.namespace)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Net {
    /// Removes what dead processes left of theirs, and makes a network of these hosts.
    pub fn new(names: &[&str], number: usize) -> Self {
        remove_abandoned();
        let prefix = format!("pal{}-{number}-", std::process::id());
        let host = |(i, name): (usize, &&str)| Host {
            name: (*name).to_owned(),
            address: Ipv4Addr::new(10, 77, 0, i as u8 + 1),
            namespace: format!("{prefix}{name}"),
            station: format!("02:70:61:6c:00:{:02x}", i + 1),
        };
        let hosts = names.iter().enumerate().map(host).collect();
        let mut net = Self {
            prefix,
            hosts,
            netem: false,
            cut: BTreeSet::new(),
            unplugged: BTreeSet::new(),
            slow: BTreeSet::new(),
        };
        net.make();
        // Not every kernel has it; tbf, which delays by queueing, is nearly always there.
        let host = &net.hosts[0].namespace;
        net.netem =
            tried("tc", &["-n", host, "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "1ms"]);
        if net.netem {
            run("tc", &["-n", host, "qdisc", "del", "dev", "eth0", "root"]);
        }
        net
    }

    fn make(&self) {
        let bridge = self.bridge();
        run("ip", &["netns", "add", &bridge]);
        let mut there = "link add name br0 type bridge\nlink set dev br0 up\n".to_owned();
        for host in &self.hosts {
            run("ip", &["netns", "add", &host.namespace]);
            let port = port(&host.name);
            writeln!(there, "link add name {port} type veth peer name eth0 netns {}", host.namespace)
                .unwrap();
            writeln!(there, "link set dev {port} master br0 up").unwrap();
        }
        batch(&bridge, &there);
        for host in &self.hosts {
            let mut here = format!(
                "link set dev lo up\nlink set dev eth0 address {}\naddress add {}/24 dev eth0\n\
                 link set dev eth0 up\n",
                host.station, host.address
            );
            for other in self.hosts.iter().filter(|other| other.name != host.name) {
                here += &neighbour(other, &other.station);
            }
            batch(&host.namespace, &here);
        }
    }

    fn bridge(&self) -> String {
        format!("{}br", self.prefix)
    }

    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("a host of this network")
    }

    pub fn offers(&self) -> &'static str {
        if self.netem {
            "one-way cuts, pulled plugs, slow links by netem (delay and loss)"
        } else {
            "one-way cuts, pulled plugs, slow links by tbf (rate and queue; this kernel has no netem)"
        }
    }

    /// What `from` sends to `to` is lost; the other direction stays.
    pub fn cut(&mut self, from: &str, to: &str) {
        batch(&self.host(from).namespace, &neighbour(self.host(to), NOBODY));
        self.cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Nothing goes to or from `host`, and it knows: its link is down.
    pub fn unplug(&mut self, host: &str) {
        run("ip", &["-n", &self.bridge(), "link", "set", "dev", &port(host), "down"]);
        self.unplugged.insert(host.to_owned());
    }

    /// What `host` sends and gets goes through a thin line.
    pub fn slow(&mut self, host: &str) {
        let line: &[&str] = match self.netem {
            true => &["netem", "delay", "150ms", "50ms", "loss", "3%", "rate", "1mbit"],
            false => &["tbf", "rate", "256kbit", "burst", "3kb", "latency", "1s"],
        };
        for (namespace, device) in self.ends(host) {
            let base = ["-n", &namespace, "qdisc", "replace", "dev", &device, "root"];
            run("tc", &[&base, line].concat());
        }
        self.slow.insert(host.to_owned());
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cut) {
            let to = self.host(&to);
            batch(&self.host(&from).namespace, &neighbour(to, &to.station));
        }
        for host in std::mem::take(&mut self.unplugged) {
            run("ip", &["-n", &self.bridge(), "link", "set", "dev", &port(&host), "up"]);
        }
        for host in std::mem::take(&mut self.slow) {
            for (namespace, device) in self.ends(&host) {
                run("tc", &["-n", &namespace, "qdisc", "del", "dev", &device, "root"]);
            }
        }
    }

    fn ends(&self, host: &str) -> [(String, String); 2] {
        [(self.host(host).namespace.clone(), "eth0".to_owned()), (self.bridge(), port(host))]
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let made = self.hosts.iter().map(|host| host.namespace.clone()).chain([self.bridge()]);
        for namespace in made {
            tried("ip", &["netns", "del", &namespace]);
        }
    }
}

/// Whether networks can be made here. If not, the test fails and says what is missing, unless `TEST_NETWORK=skip`.
pub fn possible() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "network namespaces need root: run the tests as root"
    } else if !tried("ip", &["-V"]) || !tried("tc", &["-V"]) {
        "ip and tc are missing: install iproute2 (tests/run does)"
    } else {
        return true;
    };
    let skip = std::env::var("TEST_NETWORK").is_ok_and(|value| value == "skip");
    assert!(skip, "{missing}; TEST_NETWORK=skip leaves the network tests out");
    eprintln!("SKIPPED, as TEST_NETWORK says: {missing}");
    false
}

/// Namespaces of tests that are gone, with what still runs in them.
fn remove_abandoned() {
    let Ok(listing) = fs::read_dir(NAMESPACES) else { return };
    for entry in listing {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix("pal").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if maker.is_none_or(|pid| fs::exists(format!("/proc/{pid}")).unwrap()) {
            continue;
        }
        let pids = Command::new("ip").args(["netns", "pids", &name]).output().unwrap().stdout;
        for pid in String::from_utf8_lossy(&pids).lines().filter_map(|line| line.trim().parse().ok()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        tried("ip", &["netns", "del", &name]);
    }
}

/// The bridge's end of a host's link.
fn port(host: &str) -> String {
    format!("to-{host}")
}

fn neighbour(host: &Host, station: &str) -> String {
    format!("neighbour replace {} lladdr {station} dev eth0 nud permanent\n", host.address)
}

fn tried(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("iproute2 is installed by tests/run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}

/// Several `ip` commands in one namespace.
fn batch(namespace: &str, lines: &str) {
    let mut ip = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed by tests/run");
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = ip.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip -n {namespace}:\n{lines}{said}");
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cut_loses_what_goes_one_way_and_healing_mends_it() {
        if !possible() {
            return;
        }
        let mut net = Net::new(&["a", "b"], 900);
        let (a, b) = (net.host("a").clone(), net.host("b").clone());
        let address = SocketAddr::from((b.address, 4000));
        let server = std::thread::spawn(move || {
            b.enter();
            let listener = TcpListener::bind(address).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                stream.write_all(&byte).unwrap();
            }
        });
        // On a thread of its own: the test's own stays where it is.
        let client = std::thread::spawn(move || {
            a.enter();
            let mut stream = connect(&address);
            let mut asked = 0;
            let mut echo = move |wait: u64| {
                stream.set_read_timeout(Some(Duration::from_millis(wait))).unwrap();
                asked += 1;
                stream.write_all(&[asked]).unwrap();
                let mut byte = [0];
                // What was on its way during a cut comes later.
                while byte[0] != asked {
                    if stream.read(&mut byte).is_err() {
                        return false;
                    }
                }
                true
            };
            assert!(echo(10_000));
            for (from, to) in [("a", "b"), ("b", "a")] {
                net.cut(from, to);
                assert!(!echo(300), "{from} to {to} is cut");
                net.heal();
                assert!(echo(10_000), "{from} to {to} is mended");
            }
            net.unplug("b");
            assert!(!echo(300));
            net.heal();
            assert!(echo(10_000));
            net.slow("b");
            assert!(echo(10_000));
        });
        client.join().unwrap();
        server.join().unwrap();
    }

    fn connect(address: &SocketAddr) -> TcpStream {
        loop {
            match TcpStream::connect_timeout(address, Duration::from_secs(5)) {
                Ok(stream) => return stream,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => std::thread::yield_now(),
                Err(e) => panic!("{e}"),
            }
        }
    }
}
