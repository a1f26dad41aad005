//! The record's protobuf.
use super::logs::wire as logs;
use crate::ledger::damage::wire::Damage;
use crate::ledger::drill::wire::Drill;
use crate::ledger::pack_set::wire::PackSet;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(uint32, tag = "1")]
    pub(super) level: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) previous: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
    #[prost(uint64, tag = "4")]
    pub(super) at: u64,
    #[prost(string, tag = "5")]
    pub(super) writer: String,
    #[prost(
        oneof = "record::Body",
        tags = "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 35"
    )]
    pub(super) body: Option<record::Body>,
}

pub(super) mod record {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Body {
        #[prost(message, tag = "16")]
        Leader(super::Leader),
        #[prost(message, tag = "17")]
        Begin(super::Begin),
        #[prost(message, tag = "18")]
        Commit(super::Backup),
        #[prost(message, tag = "19")]
        Abort(super::Abort),
        #[prost(message, tag = "20")]
        Forget(super::Forget),
        #[prost(message, tag = "21")]
        Condemn(super::Packs),
        #[prost(message, tag = "22")]
        Sweep(super::Packs),
        #[prost(message, tag = "23")]
        Rewrite(super::Rewrite),
        #[prost(message, tag = "24")]
        KeyEpoch(super::KeyEpoch),
        #[prost(message, tag = "30")]
        OperatorKey(super::OperatorKey),
        #[prost(message, tag = "29")]
        Damage(super::Damage),
        #[prost(message, tag = "35")]
        Drill(super::Drill),
        #[prost(message, tag = "25")]
        Pin(super::Pin),
        #[prost(message, tag = "26")]
        Unpin(super::Forget),
        #[prost(message, tag = "27")]
        Hold(super::Hold),
        #[prost(message, tag = "28")]
        Unhold(super::Forget),
        #[prost(message, tag = "31")]
        Lineage(super::logs::Lineage),
        #[prost(message, tag = "32")]
        Grant(super::logs::Grant),
        #[prost(message, tag = "33")]
        Floor(super::logs::At),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Leader {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Begin {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) transaction: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) purpose: u32,
    #[prost(message, optional, tag = "3")]
    pub(super) log: Option<logs::At>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Abort {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) transaction: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Forget {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) backup: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pin {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) backup: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hold {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) backup: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
    #[prost(uint64, tag = "3")]
    pub(super) until: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Packs {
    #[prost(message, optional, tag = "1")]
    pub(super) packs: Option<PackSet>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::ledger) struct Backup {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) nodes: Vec<Node>,
    #[prost(message, optional, tag = "3")]
    pub(super) packs: Option<PackSet>,
    #[prost(message, repeated, tag = "4")]
    pub(in crate::ledger) missing: Vec<Missing>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::ledger) struct Missing {
    #[prost(string, tag = "1")]
    pub(super) node: String,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
    #[prost(uint64, tag = "3")]
    pub(super) files: u64,
    #[prost(uint64, tag = "4")]
    pub(super) bytes: u64,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(super) paths: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Rewrite {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) transaction: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) backups: Vec<Backup>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyEpoch {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) draw: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperatorKey {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) by: Vec<u8>,
    #[prost(bool, tag = "3")]
    pub(super) removed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::ledger) struct Node {
    #[prost(string, tag = "1")]
    pub(super) node: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) manifest: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) files: u64,
    #[prost(uint64, tag = "4")]
    pub(super) bytes: u64,
    #[prost(uint64, tag = "5")]
    pub(super) bytes_read: u64,
    #[prost(uint64, tag = "6")]
    pub(super) bytes_new: u64,
    #[prost(uint64, tag = "7")]
    pub(super) bytes_stored: u64,
    #[prost(uint64, tag = "8")]
    pub(super) warnings: u64,
    #[prost(bool, tag = "9")]
    pub(super) unchanged: bool,
    #[prost(message, optional, tag = "10")]
    pub(super) log: Option<logs::Span>,
    #[prost(message, optional, tag = "11")]
    pub(super) cut: Option<Cut>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::ledger) struct Cut {
    #[prost(uint64, tag = "1")]
    pub(super) from: u64,
    #[prost(uint64, tag = "2")]
    pub(super) to: u64,
    #[prost(string, tag = "3")]
    pub(super) shard: String,
}
