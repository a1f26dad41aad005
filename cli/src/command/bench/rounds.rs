//! Rounds over one kind of data: in each everybody does every step on the same bytes, in turns, and each round in another
//! order. Who cannot is left out, and it is said why; what was begun by all is all that is compared.
use std::path::{Path, PathBuf};

use palinurus_repository::storage;
use palinurus_repository::{Error, Result, SystemEntropy};

use super::fleet::Fleet;
use super::found::{Found, keep};
use super::peer::{Peer, Tool};
use super::report::{Cost, Installed, OURS, Report, Set, Skipped};
use super::scenario::Scenario;
use super::turn::{by_peer, one_after_the_other, ours};
use super::{Bench, blocking, copy, data, limit, make_dir, meter, place, remove_dir, room, store};
use crate::Global;
use crate::output::Output;

/// What goes on through all rounds of all data.
struct Lab<'a> {
    bench: &'a Bench,
    global: &'a Global,
    output: &'a Output,
    cores: usize,
    /// Below which everything is put; none: local folders.
    store: Option<String>,
    /// Numbers the repositories in it.
    made: usize,
    tools: Vec<Tool>,
    skipped: Vec<Skipped>,
}

pub(super) async fn measure(bench: &Bench, dir: &Path, global: &Global, output: &Output) -> Result<Report> {
    let load = room::load();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut lab = Lab {
        bench,
        global,
        output,
        cores,
        store: bench.store.as_deref().map(place::new).transpose()?,
        made: 0,
        tools: Vec::new(),
        skipped: Vec::new(),
    };
    let peers = lab.peers().await;
    let measured = lab.sets(dir).await;
    if let Some(url) = &lab.store {
        output.note("cleaning up ...");
        store::clean(&*storage::open(url)?, "").await?;
    }
    let sets = measured?;
    let store = match &lab.store {
        Some(url) => url.split(':').next().unwrap_or_default().to_owned(),
        None => "local folder".to_owned(),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cores,
        rounds: bench.rounds.max(1),
        store,
        load: [load, room::load()],
        peers,
        skipped: lab.skipped,
        agent_memory_bound: 0,
        agent_memory: 0,
        sets,
    };
    Ok(report.with_memory())
}

impl Lab<'_> {
    async fn peers(&mut self) -> Vec<Installed> {
        let mut installed = Vec::new();
        if self.bench.no_peer {
            return installed;
        }
        let wanted = if self.bench.peers.is_empty() { &Tool::ALL[..] } else { &self.bench.peers[..] };
        for tool in wanted {
            let version = match (&self.store, tool.version().await) {
                (Some(_), Ok(_)) => Err("others are measured on a local folder only".to_owned()),
                (_, version) => version,
            };
            match version {
                Ok(version) => {
                    self.tools.push(*tool);
                    installed.push(Installed { name: tool.name(), version });
                }
                Err(why) => self.skip(tool.name(), why),
            }
        }
        installed
    }

    fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let skipped = Skipped { what: what.into(), why: why.into() };
        if !self.skipped.contains(&skipped) {
            self.output.warn(format!("not measured: {}: {}", skipped.what, skipped.why));
            self.skipped.push(skipped);
        }
    }

    /// It stays out of this data's rounds from here on.
    fn failed(&mut self, tool: Tool, set: &str, step: &str, error: &Error) {
        self.skip(format!("{} from {step} of {set} on", tool.name()), error.chain());
    }

    async fn sets(&mut self, dir: &Path) -> Result<Vec<Set>> {
        let mut sets = Vec::new();
        let bench = self.bench;
        if let Some(from) = &bench.data {
            let pristine = dir.join("pristine");
            self.output.note("copying the data ...");
            if let Some(why) = room::missing(dir, meter::bytes_below(from)?, 1)? {
                return Err(Error::unavailable(why).with_hint("--work names another disk"));
            }
            copy(from, &pristine).await?;
            sets.extend(self.set(&from.display().to_string(), bench.pages.is_some(), dir).await?);
            return Ok(sets);
        }
        for kind in &bench.generate {
            let size = bench.size << 20;
            self.output.note(format!("making {} ...", kind.name()));
            if let Some(why) = room::missing(dir, size, 1)? {
                self.skip(kind.name(), why);
                continue;
            }
            let pristine = dir.join("pristine");
            make_dir(&pristine)?;
            let (kind, files) = (*kind, bench.files);
            blocking(move || data::generate(kind, &pristine, size, files)).await?;
            let paged = kind.is_paged() || bench.pages.is_some();
            sets.extend(self.set(kind.name(), paged, dir).await?);
        }
        Ok(sets)
    }

    /// None: there is no room for it.
    async fn set(&mut self, name: &str, paged: bool, dir: &Path) -> Result<Option<Set>> {
        let (pristine, rounds) = (dir.join("pristine"), self.bench.rounds.max(1));
        let bytes = meter::bytes_below(&pristine)?;
        // The data of a round, a store of everybody, and one restore at a time.
        let needed = bytes * (3 + self.tools.len() as u64);
        if let Some(why) = room::missing(dir, needed, 1)? {
            self.skip(name, why);
            remove_dir(&pristine)?;
            return Ok(None);
        }
        let tools = self.tools.clone();
        let mut found: Vec<Found> = Vec::new();
        let mut files = 0;
        for number in 0..rounds {
            self.output.note(format!("{name}: round {} of {rounds} ...", number + 1));
            let home = dir.join(format!("round-{number}"));
            make_dir(&home)?;
            let data = home.join("data");
            // Each round changes its data; the last one may have the original.
            if number + 1 < rounds {
                copy(&pristine, &data).await?;
            } else {
                std::fs::rename(&pristine, &data).map_err(|e| Error::io("move the data", e))?;
            }
            let seen = Box::pin(self.round(number, name, paged, &home, &data, &mut found)).await?;
            files = seen.max(files);
            remove_dir(&home)?;
        }
        self.tools = tools;
        let limits = found.iter().filter_map(Found::limit).collect();
        let steps = found.into_iter().map(Found::step).collect();
        Ok(Some(Set { data: name.to_owned(), files, bytes, limits, steps }))
    }

    fn wants(&self, scenario: Scenario) -> bool {
        let wanted = &self.bench.scenario;
        scenario == Scenario::Cold || wanted.is_empty() || wanted.contains(&scenario)
    }

    fn url(&mut self) -> Option<String> {
        self.made += 1;
        self.store.as_ref().map(|store| place::within(store, &format!("r{}", self.made)))
    }

    /// The number of files.
    async fn round(
        &mut self,
        number: usize,
        set: &str,
        paged: bool,
        home: &Path,
        data: &Path,
        found: &mut Vec<Found>,
    ) -> Result<u64> {
        let url = self.url();
        let (global, output, cores, pages) = (self.global, self.output, self.cores, self.bench.pages);
        let places = [data.to_owned()];
        let mut fleet = Fleet::start(home, &places, paged, url.as_deref(), global, output).await?;
        let mut peers = self.made_peers(set, home).await;
        let mut files = 0;
        for scenario in Scenario::ALL.into_iter().filter(|scenario| self.wants(*scenario)).collect::<Vec<_>>()
        {
            let place = data.to_owned();
            let limits = match scenario {
                Scenario::Cold => {
                    // Twice: the first brings the data into the page cache, where everybody finds it.
                    let measure = move || {
                        limit::measure(&place, cores, &SystemEntropy::new())?;
                        limit::measure(&place, cores, &SystemEntropy::new())
                    };
                    Some(blocking(measure).await?)
                }
                Scenario::Unchanged => Some(blocking(move || limit::walk(&place)).await?),
                Scenario::Restore => {
                    let into = home.join("limit");
                    let copied = into.clone();
                    let seconds = blocking(move || limit::write(&place, &copied, cores)).await?;
                    remove_dir(&into)?;
                    Some(seconds)
                }
                Scenario::Changed => blocking(move || data::change(&place, pages)).await.map(|_| None)?,
                Scenario::Append => blocking(move || data::append(&place)).await.map(|_| None)?,
                _ => None,
            };
            let bytes = meter::bytes_below(data)?;
            if scenario.nodes() > 1 {
                Box::pin(self.replicas(number, set, scenario, paged, (home, data, bytes), found)).await?;
                continue;
            }
            let mut costs: Vec<(&'static str, Cost)> = Vec::new();
            for turn in in_turns(number, peers.len()) {
                let cost = match turn.checked_sub(1).and_then(|turn| peers.get_mut(turn)) {
                    Some(Some(peer)) => {
                        let done = by_peer(peer, scenario, data, home, bytes).await;
                        let tool = peer.tool;
                        match done {
                            Ok(cost) => (tool.name(), cost),
                            Err(error) => {
                                self.failed(tool, set, scenario.name(), &error);
                                self.tools.retain(|known| *known != tool);
                                peers[turn - 1] = None;
                                continue;
                            }
                        }
                    }
                    Some(None) => continue,
                    None => {
                        let (cost, seen) = ours(&mut fleet, scenario, data, home, bytes).await?;
                        files = seen.max(files);
                        (OURS, cost)
                    }
                };
                output.note(format!("  {}: {} {:.2} s", scenario.name(), cost.0, cost.1.seconds));
                costs.push(cost);
            }
            keep(found, scenario, bytes, costs, limits);
        }
        fleet.stop().await?;
        Ok(files)
    }

    async fn made_peers(&mut self, set: &str, home: &Path) -> Vec<Option<Peer>> {
        let mut peers = Vec::new();
        for tool in self.tools.clone() {
            match Peer::new(tool, home.join(tool.name())).await {
                Ok(peer) => peers.push(Some(peer)),
                Err(error) => {
                    self.failed(tool, set, "the start", &error);
                    self.tools.retain(|known| *known != tool);
                }
            }
        }
        peers
    }

    /// Nodes with the same data into one repository: ours at once, a peer's one after the other, as it knows no other way.
    async fn replicas(
        &mut self,
        number: usize,
        set: &str,
        scenario: Scenario,
        paged: bool,
        (round, data, bytes): (&Path, &Path, u64),
        found: &mut Vec<Found>,
    ) -> Result<()> {
        let nodes = scenario.nodes();
        let needed = bytes * (nodes + 1 + self.tools.len() as u64);
        if let Some(why) = room::missing(round, needed, nodes)? {
            self.skip(format!("{} of {set}", scenario.name()), why);
            return Ok(());
        }
        let home = round.join("replicas");
        make_dir(&home)?;
        let mut places: Vec<PathBuf> = Vec::new();
        for node in 0..nodes {
            let place = home.join(format!("data-{node}"));
            copy(data, &place).await?;
            places.push(place);
        }
        let mut peers = self.made_peers(set, &home).await;
        let mut costs = Vec::new();
        for turn in in_turns(number, peers.len()) {
            let Some(peer) = turn.checked_sub(1).and_then(|turn| peers.get_mut(turn)) else {
                let url = self.url();
                let ours = home.join("ours");
                make_dir(&ours)?;
                let starting = Fleet::start(&ours, &places, paged, url.as_deref(), self.global, self.output);
                let mut fleet = starting.await?;
                let (_, cost) = fleet.backup().await?;
                let stored = Some(fleet.stored().await?);
                fleet.stop().await?;
                costs.push((OURS, Cost { stored, ..cost }));
                continue;
            };
            let Some(peer) = peer else { continue };
            match one_after_the_other(peer, &places).await {
                Ok(cost) => costs.push((peer.tool.name(), cost)),
                Err(error) => {
                    let tool = peer.tool;
                    self.failed(tool, set, scenario.name(), &error);
                    self.tools.retain(|known| *known != tool);
                }
            }
        }
        for (name, cost) in &costs {
            self.output.note(format!("  {}: {name} {:.2} s", scenario.name(), cost.seconds));
        }
        keep(found, scenario, nodes * bytes, costs, None);
        remove_dir(&home)
    }
}

/// 0 is ourselves. Each round begins with another.
fn in_turns(round: usize, peers: usize) -> impl Iterator<Item = usize> {
    (0..=peers).map(move |turn| (round + turn) % (peers + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_once() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| in_turns(round, 2).collect()).collect();
        assert_eq!(orders, [vec![0, 1, 2], vec![1, 2, 0], vec![2, 0, 1]]);
        assert_eq!(in_turns(7, 0).collect::<Vec<_>>(), [0]);
    }
}
