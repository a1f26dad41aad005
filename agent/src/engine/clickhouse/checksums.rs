//! A part's own `checksums.txt`: the size and the hash of each of its files, as the server wrote them with the part.
//!
//! ```text
//! checksums format version: 4\n
//! hash:16 method:1 length:4 plain:4 bytes      blocks: the hash is of all that follows it, the length without it
//!   count, and of each file: name size hash:16 compressed:1, and where it is compressed: size hash:16 of what it holds
//! ```
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use naive_cityhash::{U128, cityhash128, cityhash128_with_seed};

const NAME: &str = "checksums.txt";
const FORMAT: &[u8] = b"checksums format version: 4\n";
/// Of a part with thousands of columns it is a megabyte.
const SIZE_MAX: u64 = 64 << 20;
/// Of a file: each hash is of so many bytes, and begins with the one before.
const BLOCK: usize = 2048;
/// How a block's bytes are compressed.
const NOT: u8 = 0x02;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
/// Method and lengths.
const HEAD: usize = 9;
/// Of an index of words: the server itself keeps no hash of them.
const UNHASHED: &str = ".gin_";

#[derive(Debug, PartialEq, Eq)]
struct Sum {
    name: String,
    size: u64,
    hash: U128,
}

/// What came of a part's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Damage, with the file's name.
    pub(super) findings: Vec<String>,
}

/// Holds a part's files against it. None: it has none, or one that only other versions write. Blocks.
pub(super) fn hold(part: &Path) -> io::Result<Option<Held>> {
    let mut held = Held::default();
    Ok(hold_into(part, "", &mut held)?.then_some(held))
}

fn hold_into(part: &Path, within: &str, held: &mut Held) -> io::Result<bool> {
    let mut text = Vec::new();
    match File::open(part.join(NAME)) {
        Ok(file) => file.take(SIZE_MAX + 1).read_to_end(&mut text)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let sums = match sums(&text) {
        Ok(Some(sums)) => sums,
        Ok(None) => return Ok(false),
        Err(why) => {
            held.findings.push(format!("{within}{NAME} is damaged: {why}"));
            return Ok(true);
        }
    };
    let mut buffer = vec![0; 512 * BLOCK];
    for Sum { name, size, hash } in sums {
        let (path, label) = (part.join(&name), format!("{within}{name}"));
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                held.findings.push(format!("{label} is missing"));
                continue;
            }
            // A projection has its own.
            Ok(found) if found.is_dir() => {
                hold_into(&path, &format!("{label}/"), held)?;
                continue;
            }
            Ok(found) if !found.is_file() => {
                held.findings.push(format!("{label} is no file"));
                continue;
            }
            found => found?,
        };
        if name.contains(UNHASHED) {
            continue;
        }
        let (has, is) = hash_of(&path, &mut buffer)?;
        (held.files, held.bytes) = (held.files + 1, held.bytes + has);
        if has != size {
            held.findings.push(format!("{label} has {has} bytes, and had {size}"));
        } else if is != hash {
            held.findings.push(format!("{label} has another hash than it had"));
        }
    }
    Ok(true)
}

/// A file's length and hash; `buffer` holds whole blocks.
fn hash_of(path: &Path, buffer: &mut [u8]) -> io::Result<(u64, U128)> {
    let (mut file, mut length, mut hash) = (File::open(path)?, 0, U128::new(0, 0));
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        length += filled as u64;
        hash = buffer[..filled].chunks(BLOCK).fold(hash, |hash, block| cityhash128_with_seed(block, hash));
        if filled < buffer.len() {
            return Ok((length, hash));
        }
    }
}

/// None: of another version. An error says why it cannot be what the server wrote.
fn sums(text: &[u8]) -> Result<Option<Vec<Sum>>, String> {
    if text.len() as u64 > SIZE_MAX {
        return Err("it is too long".into());
    }
    let Some(mut blocks) = text.strip_prefix(FORMAT) else {
        return match text.starts_with(b"checksums format version: ") {
            true => Ok(None),
            false => Err("it does not begin with a version".into()),
        };
    };
    let mut plain = Vec::new();
    while !blocks.is_empty() {
        let hash = number(&mut blocks)?;
        let head = blocks.get(..HEAD).ok_or(ENDS)?;
        let [long, plain_long] = [1, 5].map(|at| {
            let bytes = head[at..at + 4].try_into().unwrap_or_default();
            u32::from_le_bytes(bytes) as usize
        });
        let block = blocks.get(..long).filter(|block| block.len() >= HEAD).ok_or(ENDS)?;
        if cityhash128(block) != hash {
            return Err("its own hash is another".into());
        }
        if plain.len() + plain_long > SIZE_MAX as usize {
            return Err("it is too long".into());
        }
        let bytes = &block[HEAD..];
        let unpacked = match block[0] {
            NOT => Ok(bytes.to_vec()),
            LZ4 => lz4_flex::block::decompress(bytes, plain_long).map_err(|e| e.to_string()),
            ZSTD => zstd::bulk::decompress(bytes, plain_long).map_err(|e| e.to_string()),
            _ => return Ok(None),
        };
        plain.extend(unpacked?);
        blocks = &blocks[long..];
    }
    let mut at = plain.as_slice();
    let count = varint(&mut at)?;
    let mut sums = Vec::new();
    for _ in 0..count {
        let long = varint(&mut at)?;
        let name = str::from_utf8(take(&mut at, long)?).map_err(|e| e.to_string())?.to_owned();
        // What is read is within the part.
        if ["", ".", "..", NAME].contains(&name.as_str()) || name.contains(['/', '\0']) {
            return Err(format!("it names {name:?}"));
        }
        let (size, hash) = (varint(&mut at)?, number(&mut at)?);
        if take(&mut at, 1)? != [0] {
            varint(&mut at)?;
            number(&mut at)?;
        }
        sums.push(Sum { name, size, hash });
    }
    Ok(Some(sums))
}

const ENDS: &str = "it ends too early";

fn take<'a>(at: &mut &'a [u8], long: u64) -> Result<&'a [u8], String> {
    let long = usize::try_from(long).map_err(|_| ENDS)?;
    let (taken, rest) = at.split_at_checked(long).ok_or(ENDS)?;
    *at = rest;
    Ok(taken)
}

fn varint(at: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(at, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

fn number(at: &mut &[u8]) -> Result<U128, String> {
    let bytes = take(at, 16)?.try_into().map_err(|_| ENDS)?;
    Ok(u128::from_le_bytes(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let lengths = [(plain.len() + HEAD) as u32, plain.len() as u32].map(u32::to_le_bytes).concat();
        let block = [&[NOT], lengths.as_slice(), plain].concat();
        [FORMAT, &u128::from(cityhash128(&block)).to_le_bytes(), &block].concat()
    }

    fn of_file(name: &str, size: u8) -> Vec<u8> {
        [&[1, name.len() as u8], name.as_bytes(), &[size], &[7; 16], &[0]].concat()
    }

    #[test]
    fn a_file_is_named_with_its_size_and_hash() {
        let hash = U128::from(u128::from_le_bytes([7; 16]));
        let sum = Sum { name: "a.bin".into(), size: 3, hash };
        assert_eq!(sums(&packed(&of_file("a.bin", 3))), Ok(Some(vec![sum])));
        assert_eq!(sums(b"checksums format version: 5\n..."), Ok(None));
        // Two numbers more of what a file holds when it is unpacked.
        let compressed = [&of_file("a", 3)[..20], &[1, 9], &[8; 16]].concat();
        assert_eq!(sums(&packed(&compressed)).unwrap().unwrap()[0].name, "a");
    }

    #[test]
    fn nothing_outside_a_part_is_named() {
        for name in ["../a", "/etc/passwd", "..", ".", "", "a\0b", NAME] {
            let why = sums(&packed(&of_file(name, 3))).unwrap_err();
            assert!(why.contains("it names"), "{name:?}: {why}");
        }
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_told() {
        let whole = packed(&of_file("a.bin", 3));
        for end in 0..FORMAT.len() {
            assert!(!matches!(sums(&whole[..end]), Ok(Some(_))), "{end} bytes");
        }
        // Without a block there is no count either.
        for end in FORMAT.len()..whole.len() {
            assert!(sums(&whole[..end]).is_err(), "{end} bytes");
        }
        for at in FORMAT.len()..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(sums(&changed).is_err(), "byte {at}");
        }
        for plain in [&[0xff; 12][..], &[0x80], &[200], &[1, 5, b'a'], &[1, 0xff, 0xff, 0xff, 0xff, 0x7f]] {
            assert!(sums(&packed(plain)).is_err(), "{plain:?}");
        }
    }
}
