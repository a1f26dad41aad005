//! Whole objects to a store and back: by our storage with all that it does (conditions, marks, retries), and by others,
//! in turns within one run, each time under a new prefix and in another order.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palinurus_repository::storage::{self, list_all};
use palinurus_repository::{Error, Result, Storage};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bytes::Random;
use super::copier::{Bucket, Copier, Way};
use super::data::{self, Generated};
use super::fleet::Fleet;
use super::rates::{self, Backup, Moved, Rates, Who};
use super::{blocking, make_dir, meter, place};
use crate::Global;
use crate::exit::Outcome;
use crate::output::Output;

const DELETED_AT_ONCE: usize = 1000;

#[derive(Debug, clap::Args)]
pub(crate) struct Store {
    /// The store and a prefix in it; what is put there goes below a new name and is deleted in the end.
    url: String,
    /// How many objects.
    #[arg(long, default_value_t = 32)]
    objects: usize,
    /// Of so many MiB each.
    #[arg(long, default_value_t = 32)]
    object_size: usize,
    /// How many are on their way at a time.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Back up so many MiB of made data to the store as well; 0: none.
    #[arg(long, default_value_t = 1024)]
    backup: u64,
    /// Where to work; needs room for about three times the data.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Measure neither rclone nor s5cmd.
    #[arg(long)]
    no_peer: bool,
}

pub(super) async fn run(bench: Store, global: &Global, output: &Output) -> Result<Outcome> {
    let url = place::new(&bench.url)?;
    let storage = storage::open(&url)?;
    let result = super::in_directory(bench.work.as_deref(), async |dir| {
        Lab { bench: &bench, url: &url, storage: storage.clone(), dir, output }.measure(global).await
    })
    .await;
    output.note("cleaning up ...");
    let cleaned = clean(&*storage, "").await;
    output.data(&result?, rates::show);
    cleaned.map(|()| Outcome::Done)
}

struct Lab<'a> {
    bench: &'a Store,
    url: &'a str,
    storage: Arc<dyn Storage>,
    dir: &'a Path,
    output: &'a Output,
}

impl Lab<'_> {
    async fn measure(&self, global: &Global) -> Result<Rates> {
        let Store { objects, object_size, at_once, rounds, .. } = *self.bench;
        let (objects, at_once, rounds) = (objects.max(1), at_once.max(1), rounds.max(1));
        let bucket = Bucket::of(self.url).filter(|_| !self.bench.no_peer);
        let others = if bucket.is_some() { Copier::installed().await } else { Vec::new() };
        self.output.note("laying out the data ...");
        let from = self.dir.join("from");
        make_dir(&from)?;
        let into = from.clone();
        let files = blocking(move || lay_out(&into, objects, object_size << 20)).await?;
        // The first connection, and whether all is well there, are nobody's cost.
        self.storage.list("", None, 1).await?;
        let mut puts: Vec<Vec<Moved>> = vec![Vec::new(); others.len() + 1];
        let mut gets = puts.clone();
        for round in 0..rounds {
            self.output.note(format!("round {} of {rounds} ...", round + 1));
            for turn in 0..=others.len() {
                let who = (round + turn) % (others.len() + 1);
                let prefix = format!("{round}-{who}");
                let to = self.dir.join("to");
                make_dir(&to)?;
                let (put, get) = match (who.checked_sub(1).and_then(|who| others.get(who)), &bucket) {
                    (Some((copier, _)), Some(bucket)) => (
                        copier.copy(Way::Put, bucket, &prefix, &from, at_once).await?,
                        copier.copy(Way::Get, bucket, &prefix, &to, at_once).await?,
                    ),
                    _ => (
                        self.ours(Way::Put, &files, &prefix, &from, at_once).await?,
                        self.ours(Way::Get, &files, &prefix, &to, at_once).await?,
                    ),
                };
                // What is known stays known when the next one fails.
                self.output.note(format!(
                    "  {}: put {:.1} s, get {:.1} s",
                    who.checked_sub(1)
                        .and_then(|who| others.get(who))
                        .map_or("palinurus", |(copier, _)| copier.name()),
                    put.seconds,
                    get.seconds
                ));
                if let (Some(puts), Some(gets)) = (puts.get_mut(who), gets.get_mut(who)) {
                    puts.push(put);
                    gets.push(get);
                }
                let (one, other, files) = (from.clone(), to.clone(), files.clone());
                blocking(move || same(&one, &other, &files)).await?;
                std::fs::remove_dir_all(&to).map_err(|e| Error::io("clean up a round", e))?;
                clean(&*self.storage, &format!("{prefix}/")).await?;
            }
        }
        let names = std::iter::once("palinurus".to_owned()).chain(others.into_iter().map(|(_, name)| name));
        let who: Vec<Who> = names
            .zip(puts.iter().zip(&gets))
            .map(|(name, (puts, gets))| Who { name, put: Moved::median(puts), get: Moved::median(gets) })
            .collect();
        let backup = if self.bench.backup > 0 { Some(self.backup(global).await?) } else { None };
        Ok(Rates {
            store: format!("{:?}", self.storage),
            objects,
            object_bytes: (object_size << 20) as u64,
            at_once,
            rounds,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            put_share: rates::share(&who, |who| who.put),
            get_share: rates::share(&who, |who| who.get),
            who,
            backup,
        })
    }

    /// From files and into files, as the others do it.
    async fn ours(
        &self,
        way: Way,
        files: &[String],
        prefix: &str,
        dir: &Path,
        at_once: usize,
    ) -> Result<Moved> {
        rustix::fs::sync();
        let (began, cpu) = (Instant::now(), meter::cpu_of(std::process::id())?);
        let room = Arc::new(Semaphore::new(at_once));
        let mut tasks = JoinSet::new();
        for file in files {
            let turn = room.clone().acquire_owned().await.map_err(|_| Error::internal("no room"))?;
            let (storage, path, key) = (self.storage.clone(), dir.join(file), format!("{prefix}/{file}"));
            tasks.spawn(async move {
                let failed = |e| Error::io(format!("copy {}", path.display()), e);
                let moved = match way {
                    Way::Put => {
                        let body = tokio::fs::read(&path).await.map_err(failed)?;
                        storage.put_new(&key, body.into()).await
                    }
                    Way::Get => {
                        let body = storage.get(&key, None).await?;
                        tokio::fs::write(&path, body).await.map_err(failed)
                    }
                };
                drop(turn);
                moved
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| Error::internal("a task panicked").with_source(e))??;
        }
        let cpu = meter::cpu_of(std::process::id())? - cpu;
        Ok(Moved { seconds: began.elapsed().as_secs_f64(), cpu })
    }

    async fn backup(&self, global: &Global) -> Result<Backup> {
        self.output.note("a cold backup ...");
        let (home, size) = (self.dir.join("fleet"), self.bench.backup << 20);
        let data = home.join("data");
        make_dir(&data)?;
        let into = data.clone();
        blocking(move || data::generate(Generated::Mixed, &into, size, data::SMALL_FILES)).await?;
        let url = place::within(self.url, "repository");
        let mut fleet = Fleet::start(&home, &[data], false, Some(&url), global, self.output).await?;
        let (operation, cost) = fleet.backup().await?;
        fleet.stop().await?;
        Ok(Backup {
            seconds: cost.seconds,
            cpu: cost.cpu,
            bytes: operation.progress.unwrap_or_default().bytes_total,
            uploaded: cost.uploaded.unwrap_or_default(),
        })
    }
}

/// Noise, so that nobody's compression changes what is measured.
fn lay_out(into: &Path, objects: usize, size: usize) -> Result<Vec<String>> {
    let mut random = Random(41);
    let mut body = vec![0; size];
    let mut names = Vec::with_capacity(objects);
    for number in 0..objects {
        body.chunks_mut(8).for_each(|some| some.copy_from_slice(&random.next().to_le_bytes()[..some.len()]));
        let name = format!("object-{number:04}");
        std::fs::write(into.join(&name), &body).map_err(|e| Error::io("lay out the data", e))?;
        names.push(name);
    }
    Ok(names)
}

fn same(one: &Path, other: &Path, files: &[String]) -> Result<()> {
    let read =
        |path: PathBuf| std::fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e));
    for file in files {
        if read(one.join(file))? != read(other.join(file))? {
            return Err(Error::corrupt(format!("{file} came back as something else")));
        }
    }
    Ok(())
}

pub(super) async fn clean(storage: &dyn Storage, prefix: &str) -> Result<()> {
    let keys: Vec<String> = list_all(storage, prefix).await?.into_iter().map(|object| object.key).collect();
    for some in keys.chunks(DELETED_AT_ONCE) {
        storage.delete(some).await?;
    }
    Ok(())
}
