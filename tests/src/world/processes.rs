//! Its processes: how they are started, and how they end.
use std::fs;

use super::{World, wait};
use crate::process::{Process, palinurus};
use crate::store::free_ports;

impl World {
    /// Starts everything, applies the service and waits until all nodes have joined.
    pub async fn start(&mut self) {
        self.start_coordinator().await;
        self.apply_service().await;
        for node in self.nodes.clone() {
            self.start_agent(&node);
        }
        self.joined().await;
    }

    pub async fn start_coordinator(&mut self) {
        let state = self.path("coordinator");
        fs::create_dir_all(&state).unwrap();
        for old in ["address", "metrics-address"] {
            let _ = fs::remove_file(state.join(old));
        }
        // The same port after a restart: the agents know no other.
        let listen = self.address.clone().unwrap_or_else(|| {
            let [port] = free_ports();
            format!("127.0.0.1:{port}")
        });
        let config = self.path("coordinator.toml");
        let text = format!(
            "name = \"c\"\nlisten = {listen:?}\nstate = {state:?}\nkeys = {}\n\
             heartbeat = \"500ms\"\npatience = \"20s\"\n{}{}",
            self.keys,
            self.settings,
            self.certs.as_ref().map_or_else(String::new, |certs| certs.coordinator("c", "127.0.0.1")),
        );
        fs::write(&config, text).unwrap();
        let mut command = palinurus();
        if self.certs.is_none() {
            command.arg("--insecure-plaintext");
        }
        command.args(["coordinator", "--config"]).arg(&config).envs(&self.environment);
        let mut process = Process::start("the coordinator", command, &self.path("coordinator.log"));
        let address = wait("the coordinator listens", || {
            process.check();
            fs::read_to_string(state.join("address")).ok().filter(|text| text.ends_with('\n'))
        })
        .await;
        self.address = Some(address.trim().to_owned());
        self.coordinator = Some(process);
    }

    pub fn agent_config(&self, node: &str) -> String {
        format!(
            "service = {:?}\nnode = {node:?}\ncoordinator = [{:?}]\nstate = {:?}\nkeys = {}\n\
             {}\n[session]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\nretry_refused = \"1s\"\nprogress = \"100ms\"\n\n\
             [engine]\ntype = {:?}\nroot = {:?}\n{}{}",
            self.service_of(node),
            self.server(),
            self.agent_state(node),
            self.own_keys.get(node).unwrap_or(&self.keys),
            self.certs.as_ref().map_or_else(String::new, |certs| {
                certs.agent(self.service_of(node), node, self.spares.contains(&node))
            }),
            self.kind,
            self.data(node),
            self.engine.replace("{node}", &self.path(node).to_string_lossy()),
            self.engines.get(node).map_or("", String::as_str),
        )
    }

    pub fn start_agent(&mut self, node: &str) {
        let config = self.path(&format!("{node}.toml"));
        fs::write(&config, self.agent_config(node)).unwrap();
        let _ = fs::remove_file(self.agent_state(node).join("metrics-address"));
        let mut command = palinurus();
        command.args(["agent", "--config"]).arg(&config).envs(&self.environment);
        let log = self.path(&format!("{node}.log"));
        self.agents.insert(node.to_owned(), Process::start(&format!("the agent of {node}"), command, &log));
    }

    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().expect("it runs").kill();
    }

    pub fn kill_agent(&mut self, node: &str) {
        self.agents.remove(node).expect("it runs").kill();
    }

    pub async fn stop_agent(&mut self, node: &str) {
        assert!(self.agents.remove(node).expect("it runs").terminate().await.success());
    }

    pub fn agent(&mut self, node: &str) -> &mut Process {
        self.agents.get_mut(node).expect("it runs")
    }

    pub fn coordinator(&mut self) -> &mut Process {
        self.coordinator.as_mut().expect("it runs")
    }

    /// Ends everything in order.
    pub async fn stop(&mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            assert!(agent.terminate().await.success());
        }
        if let Some(coordinator) = self.coordinator.take() {
            assert!(coordinator.terminate().await.success());
        }
    }
}
