//! What a deletion left because the store keeps it for now.
use palinurus_proto::v1;
use serde::Serialize;

use crate::human;

#[derive(Debug, Serialize)]
pub(crate) struct LockedView {
    objects: u64,
    /// When the last of them may go; null where that is not known.
    until: Option<String>,
}

impl LockedView {
    pub(crate) fn of(detail: &v1::DeleteDetail) -> Option<Self> {
        let until = human::rfc3339(detail.locked_until_ms);
        (detail.objects_locked > 0).then_some(Self { objects: detail.objects_locked, until })
    }

    pub(crate) fn show(&self) -> String {
        let objects = human::count(self.objects);
        let until =
            self.until.as_deref().map_or("its locks are lifted".to_owned(), |at| at.replacen('T', " ", 1));
        format!("{objects} objects, which the store keeps until {until}: a later deletion removes them")
    }
}
