//! The protobuf of a piece's trailer.

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Trail {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) lineage: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) epoch: u32,
    #[prost(uint64, tag = "3")]
    pub(super) from: u64,
    #[prost(uint64, tag = "4")]
    pub(super) to: u64,
    #[prost(message, repeated, tag = "5")]
    pub(super) frames: Vec<Frame>,
    #[prost(sint64, optional, tag = "6")]
    pub(super) first_commit: Option<i64>,
    #[prost(sint64, optional, tag = "7")]
    pub(super) last_commit: Option<i64>,
    #[prost(message, repeated, tag = "8")]
    pub(super) points: Vec<Point>,
    #[prost(uint64, tag = "9")]
    pub(super) as_of: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Frame {
    #[prost(uint32, tag = "1")]
    pub(super) stored: u32,
    #[prost(uint32, tag = "2")]
    pub(super) plain: u32,
    #[prost(uint32, tag = "3")]
    pub(super) codec: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Point {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint64, tag = "2")]
    pub(super) position: u64,
}
