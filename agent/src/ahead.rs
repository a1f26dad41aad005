//! Two halves of a stream on two threads: one makes the items, the other takes them, a batch behind.
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::{Error, Result};

use crate::source::SourceEntry;

/// Items handed over at once.
const BATCH: usize = 512;
/// Fewer where they are large: one batch is made while another is taken, and no more of them are held.
const BATCH_BYTES: usize = 1 << 20;

/// How much memory an item takes beside itself, roughly.
pub(crate) trait Weight {
    fn weight(&self) -> usize;
}

impl Weight for SourceEntry {
    fn weight(&self) -> usize {
        named(&self.path, &self.meta)
    }
}

pub(crate) fn named(path: &[u8], meta: &Meta) -> usize {
    path.len() + meta.xattrs_len()
}

/// Runs `take` on this thread; what it calls gives the items that `make` makes on another, until there is none.
pub(crate) fn ahead<T: Weight + Send, R>(
    make: impl FnMut() -> Result<Option<T>> + Send,
    take: impl FnOnce(&mut dyn FnMut() -> Result<Option<T>>) -> Result<R>,
) -> Result<R> {
    thread::scope(|scope| {
        let (out, batches) = sync_channel(0);
        thread::Builder::new()
            .name("ahead".into())
            .spawn_scoped(scope, move || fill(make, &out))
            .map_err(|e| Error::unavailable("start a thread").with_source(e))?;
        let mut taken = Taken { batches, batch: Vec::new().into_iter() };
        take(&mut || taken.next())
    })
}

/// The last batch is empty, or an error.
fn fill<T: Weight>(mut make: impl FnMut() -> Result<Option<T>>, out: &SyncSender<Result<Vec<T>>>) {
    loop {
        let batch = batch(&mut make);
        let more = batch.as_ref().is_ok_and(|batch| !batch.is_empty());
        // Who takes no more wants no more.
        if out.send(batch).is_err() || !more {
            return;
        }
    }
}

fn batch<T: Weight>(make: &mut impl FnMut() -> Result<Option<T>>) -> Result<Vec<T>> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut bytes = 0;
    while batch.len() < BATCH
        && bytes < BATCH_BYTES
        && let Some(item) = make()?
    {
        bytes += item.weight();
        batch.push(item);
    }
    Ok(batch)
}

struct Taken<T> {
    batches: Receiver<Result<Vec<T>>>,
    batch: std::vec::IntoIter<T>,
}

impl<T> Taken<T> {
    /// Not to be asked again after the end.
    fn next(&mut self) -> Result<Option<T>> {
        if let Some(item) = self.batch.next() {
            return Ok(Some(item));
        }
        // A maker that is gone without an end has panicked: what it made is not all.
        self.batch =
            self.batches.recv().map_err(|_| Error::internal("the thread ahead is gone"))??.into_iter();
        Ok(self.batch.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    fn numbers(until: usize) -> impl FnMut() -> Result<Option<usize>> {
        let mut next = 0;
        move || {
            next += 1;
            Ok((next <= until).then_some(next - 1))
        }
    }

    #[test]
    fn every_item_comes_once_and_in_order() {
        for count in [0, 1, BATCH - 1, BATCH, BATCH + 1, 100 * BATCH] {
            let taken = ahead(numbers(count), |next| {
                let mut all = Vec::new();
                while let Some(item) = next()? {
                    all.push(item);
                }
                Ok(all)
            });
            assert_eq!(taken.unwrap(), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_on_either_side_ends_both() {
        let mut fine = numbers(BATCH + 7);
        let failing = move || fine()?.map(Some).ok_or_else(|| Error::corrupt("made"));
        let drain = |next: &mut dyn FnMut() -> Result<Option<usize>>| {
            while next()?.is_some() {}
            Ok(())
        };
        assert_eq!(ahead(failing, drain).unwrap_err().what(), "made");
        let endless = || Ok(Some(0));
        let refused: Result<()> = ahead(endless, |next| {
            next()?;
            Err(Error::corrupt("taken"))
        });
        assert_eq!(refused.unwrap_err().what(), "taken");
    }

    #[test]
    fn a_maker_that_panics_is_no_end() {
        let caught = std::panic::catch_unwind(|| {
            let mut fine = numbers(3);
            let panics = move || Ok(Some(fine()?.expect("the end")));
            ahead(panics, |next| {
                let result = loop {
                    match next() {
                        Ok(Some(_)) => {}
                        other => break other,
                    }
                };
                assert!(result.is_err(), "{result:?}");
                Ok(())
            })
        });
        // The scope passes the panic on, after the taker has ended with an error.
        assert!(caught.is_err());
    }
}
