//! What made files hold.
use std::io::Write;

pub(super) const PAGE: usize = 8192;

/// SplitMix64: the same data from the same seed, everywhere.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

pub(super) type Make = fn(&mut Random, usize) -> Vec<u8>;

const WORDS: [&str; 24] = [
    "select",
    "commit",
    "customer",
    "invoice",
    "shipped",
    "pending",
    "warehouse",
    "2026-11-22",
    "latency",
    "replica",
    "primary",
    "timeout",
    "retry",
    "payload",
    "checksum",
    "segment",
    "amount",
    "currency",
    "EUR",
    "status",
    "updated",
    "created",
    "partition",
    "offset",
];

/// Rows as a table has them: numbers that rise, words that repeat, some noise. Compresses about as heap pages do.
pub(super) fn rows(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 128);
    let mut id = random.below(1 << 40);
    while bytes.len() < len {
        id += 1;
        let words = [(); 4].map(|()| WORDS[random.below(WORDS.len() as u64) as usize]);
        let noise = random.next();
        let _ =
            write!(bytes, "{id:012}|{}|{}|{:016x}|{}|{}\0", words[0], words[1], noise, words[2], words[3]);
    }
    bytes.truncate(len);
    bytes
}

pub(super) fn json(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 256);
    while bytes.len() < len {
        let word = |random: &mut Random| WORDS[random.below(WORDS.len() as u64) as usize];
        let (a, b, c) = (word(random), word(random), word(random));
        let (n, m) = (random.below(1_000_000), random.below(10_000));
        let _ = writeln!(
            bytes,
            "{{\"time\":{n},\"level\":\"info\",\"event\":\"{a}\",\"table\":\"{b}\",\"{c}\":{m}}}"
        );
    }
    bytes.truncate(len);
    bytes
}

/// Pages as a database keeps them: a header, pointers to rows that grow towards each other, and some room.
pub(super) fn heap(random: &mut Random, len: usize) -> Vec<u8> {
    const HEADER: usize = 24;
    const ROW_HEADER: usize = 24;
    let mut bytes = vec![0; len];
    for (number, page) in bytes.chunks_mut(PAGE).enumerate() {
        let (mut lower, mut upper) = (HEADER, page.len());
        let full = page.len() / 10;
        while upper > lower + full {
            let length = 60 + random.below(80) as usize;
            let row = rows(random, length);
            let start = (upper - ROW_HEADER).saturating_sub(row.len()) & !7;
            if start < lower + 4 {
                break;
            }
            upper = start;
            let (at, size) = (upper as u32, (ROW_HEADER + row.len()) as u32);
            page[lower..lower + 4].copy_from_slice(&(at | 1 << 15 | size << 17).to_le_bytes());
            lower += 4;
            let transaction = 700 + random.below(5000) as u32;
            page[upper..upper + 4].copy_from_slice(&transaction.to_le_bytes());
            page[upper + 12..upper + 16].copy_from_slice(&(number as u32).to_le_bytes());
            let end = (upper + ROW_HEADER + row.len()).min(page.len());
            page[upper + ROW_HEADER..end].copy_from_slice(&row[..end - upper - ROW_HEADER]);
        }
        if page.len() > HEADER {
            page[..8].copy_from_slice(&(0x0001_0000_0000 + random.below(1 << 30)).to_le_bytes());
            page[8..10].copy_from_slice(&(random.next() as u16).to_le_bytes());
            page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
            page[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
            let special = page.len() as u16;
            page[16..18].copy_from_slice(&special.to_le_bytes());
        }
    }
    bytes
}

pub(super) fn log(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 256);
    let mut seconds = random.below(1 << 24);
    while bytes.len() < len {
        seconds += random.below(3);
        let word = |random: &mut Random| WORDS[random.below(WORDS.len() as u64) as usize];
        let (a, b, c) = (word(random), word(random), word(random));
        let (millis, client) = (random.below(10_000), random.below(256));
        let (day, hour, minute, second) =
            (seconds / 86400 % 28 + 1, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let _ = writeln!(
            bytes,
            "2026-11-{day:02} {hour:02}:{minute:02}:{second:02} INFO [{a}] 10.0.3.{client} {b} {c} took {millis} us"
        );
    }
    bytes.truncate(len);
    bytes
}

/// Blocks of 16 KiB, each compressed by itself, with its length before it.
pub(super) fn sorted(random: &mut Random, len: usize) -> Vec<u8> {
    const BLOCK: usize = 16 << 10;
    let mut bytes = Vec::with_capacity(len + BLOCK);
    while bytes.len() < len {
        let block = rows(random, BLOCK);
        let block = zstd::bulk::compress(&block, 1).unwrap_or(block);
        bytes.extend((block.len() as u32).to_le_bytes());
        bytes.extend(block);
    }
    bytes.truncate(len);
    bytes
}

pub(super) fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_look_like_pages() {
        let bytes = heap(&mut Random(3), 4 * PAGE);
        for page in bytes.chunks(PAGE) {
            let number = |at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
            let (lower, upper) = (number(12), number(14));
            assert!(lower > 100 && lower < upper && upper - lower <= PAGE / 5, "{lower} {upper}");
            assert!(page[lower..upper].iter().all(|byte| *byte == 0), "the room between them");
        }
    }
}
