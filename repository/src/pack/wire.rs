//! As stored and sent. Columns, because ids dominate and everything else then compresses to little.

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ChunkAt {
    #[prost(bytes, tag = "1")]
    pub(crate) transaction: Vec<u8>,
    #[prost(bytes, tag = "2")]
    pub(crate) writer: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(crate) counter: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) ordinal: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) offset: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) stored: u32,
    #[prost(uint32, tag = "7")]
    pub(crate) plain: u32,
    #[prost(uint32, tag = "8")]
    pub(crate) codec: u32,
    #[prost(uint32, tag = "9")]
    pub(crate) start: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) len: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PackSummary {
    #[prost(bytes, tag = "1")]
    pub(crate) transaction: Vec<u8>,
    #[prost(bytes, tag = "2")]
    pub(crate) writer: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(crate) counter: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) size: u64,
    #[prost(uint32, repeated, tag = "5")]
    pub(crate) stored: Vec<u32>,
    #[prost(uint32, repeated, tag = "6")]
    pub(crate) plain: Vec<u32>,
    #[prost(uint32, repeated, tag = "7")]
    pub(crate) codec: Vec<u32>,
    /// How many chunks each frame holds.
    #[prost(uint32, repeated, tag = "8")]
    pub(crate) chunks: Vec<u32>,
    #[prost(bytes, tag = "9")]
    pub(crate) ids: Vec<u8>,
    #[prost(uint32, repeated, tag = "10")]
    pub(crate) lens: Vec<u32>,
}
