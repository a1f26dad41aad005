//! What stores were asked, from the repository's counts to the wire's.
use palinurus_repository::storage::Requests;

use crate::v1;

impl From<Requests> for v1::Requests {
    fn from(asked: Requests) -> Self {
        let Requests { puts, gets, sizes, lists, deletes, deleted, retries, bytes_put, bytes_got } = asked;
        Self {
            puts,
            gets,
            sizes,
            lists,
            deletes,
            deleted,
            retries,
            bytes_sent: bytes_put,
            bytes_received: bytes_got,
        }
    }
}

impl v1::Requests {
    pub fn add(&mut self, more: &Self) {
        self.puts += more.puts;
        self.gets += more.gets;
        self.sizes += more.sizes;
        self.lists += more.lists;
        self.deletes += more.deletes;
        self.deleted += more.deleted;
        self.retries += more.retries;
        self.bytes_sent += more.bytes_sent;
        self.bytes_received += more.bytes_received;
    }

    /// All that went to the store; retries are among them.
    pub fn total(&self) -> u64 {
        self.puts + self.gets + self.sizes + self.lists + self.deletes
    }
}
