//! What records say of logs, and its protobuf.
use crate::error::Result;
use crate::id::LineageId;
use crate::log::{At, Lineage, Span};

pub(in crate::ledger) mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Lineage {
        #[prost(bytes = "vec", tag = "1")]
        pub(in crate::ledger) lineage: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(in crate::ledger) parent: Vec<u8>,
        #[prost(uint64, tag = "3")]
        pub(in crate::ledger) from: u64,
        #[prost(string, tag = "4")]
        pub(in crate::ledger) kind: String,
        #[prost(bytes = "vec", tag = "5")]
        pub(in crate::ledger) identity: Vec<u8>,
        #[prost(uint32, tag = "6")]
        pub(in crate::ledger) segment: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Grant {
        #[prost(bytes = "vec", tag = "1")]
        pub(in crate::ledger) lineage: Vec<u8>,
        #[prost(uint32, tag = "2")]
        pub(in crate::ledger) epoch: u32,
        #[prost(string, tag = "3")]
        pub(in crate::ledger) node: String,
        #[prost(uint64, tag = "4")]
        pub(in crate::ledger) from: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct At {
        #[prost(bytes = "vec", tag = "1")]
        pub(in crate::ledger) lineage: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub(in crate::ledger) position: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in crate::ledger) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(in crate::ledger) lineage: Vec<u8>,
        #[prost(uint64, tag = "2")]
        pub(in crate::ledger) start: u64,
        #[prost(uint64, tag = "3")]
        pub(in crate::ledger) stop: u64,
    }
}

pub(in crate::ledger) fn wire_lineage(lineage: &Lineage) -> wire::Lineage {
    wire::Lineage {
        lineage: lineage.id.0.to_vec(),
        parent: lineage.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        from: lineage.from,
        kind: lineage.kind.clone(),
        identity: lineage.identity.clone(),
        segment: lineage.segment,
    }
}

pub(in crate::ledger) fn lineage_from_wire(w: wire::Lineage) -> Result<Lineage> {
    let parent = Some(w.parent).filter(|parent| !parent.is_empty());
    Ok(Lineage {
        id: LineageId::from_slice(&w.lineage)?,
        parent: parent.map(|parent| LineageId::from_slice(&parent)).transpose()?,
        from: w.from,
        kind: w.kind,
        identity: w.identity,
        segment: w.segment,
        grants: Vec::new(),
        floor: 0,
        number: 0,
    })
}

pub(in crate::ledger) fn wire_at(at: &At) -> wire::At {
    wire::At { lineage: at.lineage.0.to_vec(), position: at.position }
}

pub(in crate::ledger) fn at_from_wire(w: wire::At) -> Result<At> {
    Ok(At { lineage: LineageId::from_slice(&w.lineage)?, position: w.position })
}

pub(super) fn wire_span(span: &Span) -> wire::Span {
    wire::Span { lineage: span.lineage.0.to_vec(), start: span.start, stop: span.stop }
}

pub(super) fn span_from_wire(w: wire::Span) -> Result<Span> {
    Ok(Span { lineage: LineageId::from_slice(&w.lineage)?, start: w.start, stop: w.stop })
}
