//! Where work goes that holds its thread: files, hashing, the index.
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// To the runtime's threads for such work.
    #[default]
    Threads,
    /// Done on the spot: a simulation has one thread, so that a run can be repeated.
    Inline,
}

impl Blocking {
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match self {
            Self::Inline => work(),
            Self::Threads => tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Error::internal("a blocking task").with_source(e))?,
        }
    }
}
