//! Every operation's newest record, for whoever wants to look: listing and watching disturb no actor.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<String, watch::Sender<Arc<v1::Operation>>>>);

impl Board {
    pub(crate) fn publish(&self, operation: &v1::Operation) {
        let shown = Arc::new(operation.clone());
        let mut all = self.lock();
        match all.get(&operation.id) {
            Some(sender) => drop(sender.send_replace(shown)),
            None => drop(all.insert(operation.id.clone(), watch::Sender::new(shown))),
        }
    }

    /// Who watches it is told that it is gone.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// In the order in which they were created.
    pub(crate) fn list(&self) -> Vec<Arc<v1::Operation>> {
        let mut all: Vec<_> = self.lock().values().map(|sender| sender.borrow().clone()).collect();
        all.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        all
    }

    /// The operation whose id begins with `text`.
    pub(crate) fn find(&self, text: &str) -> Result<watch::Receiver<Arc<v1::Operation>>> {
        let all = self.lock();
        let prefix = text.to_ascii_lowercase();
        let mut found =
            all.range(prefix.clone()..).take_while(|(id, _)| !prefix.is_empty() && id.starts_with(&prefix));
        match (found.next(), found.next()) {
            (Some((_, sender)), None) => Ok(sender.subscribe()),
            (Some((id, sender)), Some(_)) if *id == prefix => Ok(sender.subscribe()),
            (Some((one, _)), Some((two, _))) => Err(Error::invalid(format!(
                "{text:?} names more than one operation, such as {one} and {two}"
            ))
            .with_hint("give more digits")),
            (None, _) => Err(Error::not_found(format!("no operation's id begins with {text:?}"))
                .with_hint("`palinurus operation list` shows the ids")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<Arc<v1::Operation>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use palinurus_repository::ErrorKind;

    use super::*;

    fn operation(id: &str, created_ms: u64) -> v1::Operation {
        v1::Operation { id: id.to_owned(), created_ms, ..Default::default() }
    }

    #[test]
    fn prefixes_name_one_operation_or_none() {
        let board = Board::default();
        board.publish(&operation("ab01", 2));
        board.publish(&operation("ab02", 1));
        board.publish(&operation("ab", 3));
        let id = |text: &str| board.find(text).map(|found| found.borrow().id.clone()).map_err(|e| e.kind());
        assert_eq!(id("AB01"), Ok("ab01".to_owned()));
        assert_eq!(id("ab"), Ok("ab".to_owned()), "a whole id is no prefix");
        assert_eq!(id("ab0"), Err(ErrorKind::Invalid));
        assert_eq!(id("c"), Err(ErrorKind::NotFound));
        assert_eq!(id(""), Err(ErrorKind::NotFound));
        assert_eq!(
            board.list().iter().map(|each| each.id.as_str()).collect::<Vec<_>>(),
            ["ab02", "ab01", "ab"]
        );
    }

    #[tokio::test]
    async fn who_watches_sees_the_newest_and_the_end() {
        let board = Board::default();
        board.publish(&operation("a", 1));
        let mut watch = board.find("a").unwrap();
        board.publish(&operation("a", 2));
        board.publish(&operation("a", 3));
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow_and_update().created_ms, 3);
        board.remove("a");
        assert!(watch.changed().await.is_err());
    }
}
