//! Finds in a stream of WAL where transactions end and restore points are. It needs no more than the first bytes of each
//! record; where it has lost its way, every page says where the next record begins.
//!
//! ```text
//! page    magic u16, flags u16, timeline u32, address u64, rest of a record from before u32, 4 unused
//!         (first of a segment: system identifier u64, segment size u32, page size u32)
//! record  length u32, transaction u32, record before u64, info u8, manager u8, 2 unused, CRC u32; at multiples of 8
//! ```
use crate::engine::{Mark, Marked};

const SHORT: usize = 24;
const LONG: usize = 40;
const RECORD: u64 = 24;
const RECORD_MAX: u64 = 1 << 30;
const CONTINUED: u16 = 1;
/// Header, origin, top-level transaction, length, time and name: all that is looked at.
const HEAD_MAX: usize = 128;
/// 2000-01-01 in µs since 1970.
pub(super) const EPOCH: i64 = 946_684_800_000_000;

const MANAGER_XLOG: u8 = 0;
const MANAGER_XACT: u8 = 1;
const SWITCH: u8 = 0x40;
const RESTORE_POINT: u8 = 0x70;
/// Commit and abort, of plain and of prepared transactions: what recovery to a time may stop at.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Until the next page says where a record begins.
    Lost,
    /// So much of a record whose beginning was not seen.
    Rest(u64),
    Between,
    Record {
        start: u64,
        head: Vec<u8>,
        seen: u64,
    },
    /// After a switch: nothing more in this segment.
    Switched,
}

#[derive(Debug)]
pub(super) struct Scanner {
    at: u64,
    segment: u64,
    page: u64,
    header: Vec<u8>,
    state: State,
    /// Where the record before began.
    before: Option<u64>,
}

impl Scanner {
    /// `at` is the first byte of a segment.
    pub(super) fn new(at: u64, segment: u64) -> Self {
        Self { at, segment, page: 8192, header: Vec::new(), state: State::Lost, before: None }
    }

    /// Where the last whole record begins.
    pub(super) fn last(&self) -> Option<u64> {
        self.before
    }

    /// The bytes that follow.
    pub(super) fn feed(&mut self, mut bytes: &[u8], marks: &mut Vec<Mark>) {
        while !bytes.is_empty() {
            let start = self.at - self.at % self.page;
            let header = if start.is_multiple_of(self.segment) { LONG } else { SHORT };
            let into = (self.at % self.page) as usize;
            let take = if into < header {
                let take = bytes.len().min(header - into);
                self.header.extend_from_slice(&bytes[..take]);
                if into + take == header {
                    let header = std::mem::take(&mut self.header);
                    self.begin_page(&header, start);
                }
                take
            } else {
                let take = bytes.len().min((self.page as usize) - into);
                self.body(&bytes[..take], marks)
            };
            self.at += take as u64;
            bytes = &bytes[take..];
        }
    }

    fn begin_page(&mut self, header: &[u8], start: u64) {
        let (flags, address) = (u16_at(header, 2), u64_at(header, 8));
        let rest = u64::from(u32_at(header, 16));
        if start.is_multiple_of(self.segment) {
            let page = u64::from(u32_at(header, 36));
            if page.is_power_of_two() && (1024..=65_536).contains(&page) {
                self.page = page;
            }
            if self.state == State::Switched {
                self.state = State::Between;
            }
        }
        let known = header.get(1) == Some(&0xd1) && address == start;
        let expected = match &self.state {
            State::Rest(rest) => Some(*rest),
            State::Record { head, seen, .. } => Some(u64::from(u32_at(head, 0)).saturating_sub(*seen)),
            State::Between => None,
            State::Switched => return,
            State::Lost => {
                self.state = if !known {
                    State::Lost
                } else if flags & CONTINUED != 0 {
                    State::Rest(rest)
                } else {
                    State::Between
                };
                return;
            }
        };
        let says = (flags & CONTINUED != 0).then_some(rest);
        if known && says == expected {
            return;
        }
        // A record that was given up when its server died, or damage: the page knows better.
        self.before = None;
        self.state = match says {
            _ if !known => State::Lost,
            Some(rest) => State::Rest(rest),
            None => State::Between,
        };
    }

    /// Takes a part of what lies between two headers, and says how much.
    fn body(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> usize {
        match &mut self.state {
            State::Lost | State::Switched => bytes.len(),
            State::Rest(rest) => {
                let take = (*rest).min(bytes.len() as u64);
                *rest -= take;
                if *rest == 0 {
                    self.state = State::Between;
                }
                take as usize
            }
            State::Between => {
                let pad = (self.at.next_multiple_of(8) - self.at) as usize;
                if pad == 0 {
                    self.state = State::Record { start: self.at, head: Vec::new(), seen: 0 };
                }
                pad.min(bytes.len())
            }
            State::Record { head, seen, .. } => {
                // The length is never cut by a page, but it may be by what we are given at a time.
                let total = if *seen < 4 { 4 } else { u64::from(u32_at(head, 0)) };
                let take = (total - *seen).min(bytes.len() as u64) as usize;
                let kept = take.min(HEAD_MAX.saturating_sub(head.len()));
                head.extend_from_slice(&bytes[..kept]);
                *seen += take as u64;
                let total = u64::from(u32_at(head, 0));
                if *seen == 4 && !(RECORD..=RECORD_MAX).contains(&total) {
                    self.state = State::Lost;
                } else if *seen >= RECORD && *seen == total {
                    self.end_record(self.at + take as u64, marks);
                }
                take
            }
        }
    }

    fn end_record(&mut self, end: u64, marks: &mut Vec<Mark>) {
        let State::Record { start, head, .. } = std::mem::replace(&mut self.state, State::Between) else {
            return;
        };
        if self.before.is_some_and(|before| before != u64_at(&head, 8)) {
            (self.before, self.state) = (None, State::Lost);
            return;
        }
        self.before = Some(start);
        let (info, manager) = (u8_at(&head, 16), u8_at(&head, 17));
        if (manager, info & 0xf0) == (MANAGER_XLOG, SWITCH) {
            self.state = State::Switched;
        }
        if let Some(what) = marked(manager, info, &head) {
            marks.push(Mark { end, what });
        }
    }
}

fn marked(manager: u8, info: u8, head: &[u8]) -> Option<Marked> {
    match manager {
        MANAGER_XACT if ENDS.contains(&(info & 0x70)) => {
            let at = data(head)?.first_chunk().copied().map(i64::from_le_bytes)?;
            Some(Marked::End(at.checked_add(EPOCH)?))
        }
        MANAGER_XLOG if info & 0xf0 == RESTORE_POINT => {
            let name = data(head)?.get(8..)?;
            let len = name.iter().position(|byte| *byte == 0)?;
            Some(Marked::Name(String::from_utf8(name[..len].to_vec()).ok()?))
        }
        _ => None,
    }
}

/// The main data of a record that has no blocks, behind what may stand before it.
fn data(head: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD as usize;
    loop {
        at += match head.get(at)? {
            253 => 3,
            252 => 5,
            255 => return head.get(at + 2..),
            254 => return head.get(at + 5..),
            _ => return None,
        };
    }
}

fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEGMENT: u64 = 1 << 20;

    /// Lays records over pages as a server does.
    struct Writer {
        bytes: Vec<u8>,
        before: u64,
    }

    impl Writer {
        fn put(&mut self, mut record: &[u8]) {
            while !record.is_empty() {
                if self.bytes.len().is_multiple_of(8192) {
                    self.header(record.len() as u32);
                }
                let room = 8192 - self.bytes.len() % 8192;
                let (now, later) = record.split_at(room.min(record.len()));
                self.bytes.extend_from_slice(now);
                record = later;
            }
        }

        fn header(&mut self, rest: u32) {
            let at = self.bytes.len() as u64;
            self.bytes.extend([0x16, 0xd1]);
            self.bytes.extend(u16::from(rest > 0).to_le_bytes());
            self.bytes.extend(1_u32.to_le_bytes());
            self.bytes.extend(at.to_le_bytes());
            self.bytes.extend(rest.to_le_bytes());
            self.bytes.extend([0; 4]);
            if at.is_multiple_of(SEGMENT) {
                self.bytes.extend(7_u64.to_le_bytes());
                self.bytes.extend((SEGMENT as u32).to_le_bytes());
                self.bytes.extend(8192_u32.to_le_bytes());
            }
        }

        fn record(&mut self, manager: u8, info: u8, data: &[u8]) -> u64 {
            let aligned = self.bytes.len().next_multiple_of(8);
            self.bytes.resize(aligned, 0);
            if aligned.is_multiple_of(8192) {
                self.header(0);
            }
            let start = self.bytes.len() as u64;
            let mut record = (24 + 5 + data.len() as u32).to_le_bytes().to_vec();
            record.extend([0; 4]);
            record.extend(self.before.to_le_bytes());
            record.extend([info, manager, 0, 0, 0, 0, 0, 0, 254]);
            record.extend((data.len() as u32).to_le_bytes());
            record.extend(data);
            self.before = start;
            self.put(&record);
            self.bytes.len() as u64
        }
    }

    fn point(name: &str) -> Vec<u8> {
        let mut data = vec![0; 72];
        data[8..8 + name.len()].copy_from_slice(name.as_bytes());
        data
    }

    fn scan(bytes: &[u8], cuts: &[usize]) -> Vec<Mark> {
        let (mut scanner, mut marks, mut from) = (Scanner::new(0, SEGMENT), Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let to = (from + cut).min(bytes.len());
            scanner.feed(&bytes[from..to], &mut marks);
            from = to;
            if from == bytes.len() {
                break;
            }
        }
        marks
    }

    #[test]
    fn a_switch_leaves_the_rest_of_its_segment_out() {
        let mut writer = Writer { bytes: Vec::new(), before: 0 };
        let first = writer.record(MANAGER_XACT, 0x80, &5_i64.to_le_bytes());
        writer.record(MANAGER_XLOG, SWITCH, &[]);
        writer.bytes.resize(SEGMENT as usize, 0);
        let second = writer.record(MANAGER_XLOG, RESTORE_POINT, &point("before the drop"));
        assert_eq!(
            scan(&writer.bytes, &[1000]),
            [
                Mark { end: first, what: Marked::End(EPOCH + 5) },
                Mark { end: second, what: Marked::Name("before the drop".into()) }
            ]
        );
    }

    proptest! {
        /// However it is cut, and whatever stands in between.
        #[test]
        fn every_end_is_found_where_it_is(
            records in prop::collection::vec((0_u8..3, 0_usize..30_000), 1..60),
            cuts in prop::collection::vec(1_usize..9000, 1..5),
            damaged in prop::option::of((0_usize..200_000, any::<u8>())),
        ) {
            let mut writer = Writer { bytes: Vec::new(), before: 0 };
            let mut wanted = Vec::new();
            for (number, (kind, len)) in records.into_iter().enumerate() {
                if kind == 0 {
                    let end = writer.record(MANAGER_XACT, 0x20, &(number as i64).to_le_bytes());
                    wanted.push(Mark { end, what: Marked::End(EPOCH + number as i64) });
                } else {
                    writer.record(10 + kind, 0, &vec![kind; len]);
                }
            }
            prop_assert_eq!(&scan(&writer.bytes, &cuts), &wanted);
            let mut scanner = Scanner::new(0, SEGMENT);
            scanner.feed(&writer.bytes, &mut Vec::new());
            prop_assert_eq!(scanner.last(), Some(writer.before));
            if let Some((at, byte)) = damaged {
                let at = at % writer.bytes.len();
                writer.bytes[at] ^= byte;
                // What it says may be less; it must come to an end.
                scan(&writer.bytes, &cuts);
            }
        }

        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..40_000)) {
            scan(&[&bytes[..], &[0]].concat(), &[777]);
        }
    }
}
