//! `global/pg_control`: which cluster this is and where its last checkpoint lies. Read from the disk beside the
//! server that writes it, so a read may be torn: only one whose checksum is right counts.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Error, ErrorKind, Result};

use super::lsn::Lsn;

pub(super) const NAME: &str = "global/pg_control";
const SIZE: usize = 8192;
/// `DB_IN_PRODUCTION`, in every version.
const IN_PRODUCTION: u32 = 6;
/// The checksum's place moves with the version; it is after all fields that are read here.
const CHECKSUM_FROM: usize = 200;
const CHECKSUM_TO: usize = 508;
/// A torn read mends itself in microseconds. Equal bytes twice are damage.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) system_identifier: u64,
    pub(super) checkpoint: Lsn,
    pub(super) timeline: u32,
    /// Its server is written, or ended without saying so.
    pub(super) in_production: bool,
    pub(super) bytes: Vec<u8>,
}

impl Control {
    /// Blocks.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(NAME);
        let mut before: Option<Vec<u8>> = None;
        for _ in 0..TRIES {
            let bytes = read(&path)?;
            match Self::parse(&bytes) {
                Some(control) => return Ok(control),
                None if before.as_ref() == Some(&bytes) => break,
                None => before = Some(bytes),
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::corrupt(format!("{} is damaged: its checksum is wrong", path.display()))
            .with_hint("see what pg_controldata says of it"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SIZE || !has_checksum(bytes) {
            return None;
        }
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let timeline = u32::from_le_bytes(bytes.get(48..52)?.try_into().ok()?);
        Some(Self {
            system_identifier: long(0)?,
            checkpoint: Lsn(long(32)?),
            timeline,
            in_production: bytes.get(16..20)? == IN_PRODUCTION.to_le_bytes(),
            bytes: bytes.to_vec(),
        })
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        let error = Error::io(format!("read {}", path.display()), e);
        match error.kind() {
            ErrorKind::NotFound => {
                error.with_hint("engine.root must be the data directory of a PostgreSQL cluster")
            }
            ErrorKind::Denied => {
                error.with_hint("run the agent as root or as the user that owns the data directory")
            }
            _ => error,
        }
    })
}

/// Whether one of the places that it may have holds the CRC-32C of all before it.
fn has_checksum(bytes: &[u8]) -> bool {
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate().take(CHECKSUM_TO) {
        if at >= CHECKSUM_FROM && at % 4 == 0 && bytes.get(at..at + 4) == Some(&(!crc).to_le_bytes()[..]) {
            return true;
        }
        crc = step(crc, *byte);
    }
    false
}

/// CRC-32C, a bit at a time: there are 500 bytes.
fn step(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[..8].copy_from_slice(&7_u64.to_le_bytes());
        bytes[16] = 6;
        bytes[32..40].copy_from_slice(&0x16_b374_d848_u64.to_le_bytes());
        bytes[48..52].copy_from_slice(&3_u32.to_le_bytes());
        let crc = !bytes[..288].iter().fold(u32::MAX, |crc, byte| step(crc, *byte));
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn only_a_right_checksum_counts() {
        assert_eq!(!b"123456789".iter().fold(u32::MAX, |crc, byte| step(crc, *byte)), 0xe306_9283);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("global")).unwrap();
        assert!(Control::read(dir.path()).unwrap_err().hint().unwrap().contains("engine.root"));
        std::fs::write(dir.path().join(NAME), control()).unwrap();
        let read = Control::read(dir.path()).unwrap();
        assert_eq!((read.system_identifier, read.timeline, read.checkpoint), (7, 3, Lsn(0x16_b374_d848)));
        assert!(read.in_production);
        for at in [0, 32, 287, 288] {
            let mut torn = control();
            torn[at] ^= 1;
            std::fs::write(dir.path().join(NAME), torn).unwrap();
            assert_eq!(Control::read(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt, "{at}");
        }
    }
}
