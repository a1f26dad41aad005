//! What is read from files that change under a process that runs: the newest that could be read.
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use palinurus_repository::Result;
use tokio::time::Instant;

/// Files are looked at when somebody asks, and not more often than this.
const LOOK: Duration = Duration::from_millis(500);

pub struct Reloading<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    /// Of the files when they were last read, whether or not that went well.
    stamp: Vec<Stamp>,
    looked: Instant,
}

/// Inode, size, and time of change to the nanosecond; none where there is no file.
type Stamp = Option<(u64, u64, i64, i64)>;

impl<T> Reloading<T> {
    /// What cannot be read at the start is the caller's to mend.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let stamp = stamp(&files);
        let value = Arc::new(load()?);
        let state = Mutex::new(State { value, stamp, looked: Instant::now() });
        Ok(Self { what, files, load: Box::new(load), state })
    }

    pub fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() < LOOK {
            return state.value.clone();
        }
        state.looked = Instant::now();
        // Stamped first: what changes while it is read is read again.
        let stamp = stamp(&self.files);
        if stamp != state.stamp {
            state.stamp = stamp;
            match (self.load)() {
                Ok(value) => {
                    tracing::info!("{}: the files have changed and are in force", self.what);
                    state.value = Arc::new(value);
                }
                Err(e) => tracing::error!(
                    error = e.chain(),
                    hint = e.hint().unwrap_or_default(),
                    "{}: the files have changed and cannot be used: going on with what was there before",
                    self.what
                ),
            }
        }
        state.value.clone()
    }
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading")
            .field("what", &self.what)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn stamp(files: &[PathBuf]) -> Vec<Stamp> {
    let one = |file: &PathBuf| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    };
    files.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use palinurus_repository::Error;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broken_file_changes_nothing_and_a_good_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let read = {
            let file = file.clone();
            move || {
                let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", e))?;
                text.parse::<u32>().map_err(|e| Error::invalid("no number").with_source(e))
            }
        };
        assert!(Reloading::new("a number", vec![file.clone()], read.clone()).is_err());
        std::fs::write(&file, "1").unwrap();
        let number = Reloading::new("a number", vec![file.clone()], read).unwrap();
        for (text, expected) in [(Some("22"), 22), (Some("broken"), 22), (None, 22), (Some("333"), 333)] {
            match text {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            tokio::time::advance(LOOK).await;
            assert_eq!(*number.current(), expected, "{text:?}");
        }
    }
}
