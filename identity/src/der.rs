//! As much of DER as it takes to show a certificate: when it is valid, whose it is, and where. Nothing is trusted on
//! the strength of this; rustls proves certificates with a parser of its own.
use std::net::IpAddr;

const SEQUENCE: u8 = 0x30;
const OID_NAME: &[u8] = &[0x55, 4, 3];
const OID_ALTERNATIVES: &[u8] = &[0x55, 29, 17];

/// Tag, content, and what follows.
fn next(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn within(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    next(input).filter(|found| found.0 == tag).map(|(_, content, rest)| (content, rest))
}

fn all(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = next(input)?;
        input = rest;
        Some((tag, content))
    })
}

pub(crate) struct Fields {
    pub(crate) serial: Vec<u8>,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// Unix seconds.
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// DNS names and addresses.
    pub(crate) addresses: Vec<String>,
}

pub(crate) fn fields(certificate: &[u8]) -> Option<Fields> {
    let (signed, _) = within(within(certificate, SEQUENCE)?.0, SEQUENCE)?;
    let rest = within(signed, 0xa0).map_or(signed, |(_, rest)| rest); // version
    let (serial, rest) = within(rest, 2)?;
    let (_, rest) = within(rest, SEQUENCE)?; // algorithm
    let (issuer, rest) = within(rest, SEQUENCE)?;
    let (validity, rest) = within(rest, SEQUENCE)?;
    let (subject, rest) = within(rest, SEQUENCE)?;
    let mut times = all(validity).map(|(tag, text)| time(tag, text));
    let (not_before, not_after) = (times.next()??, times.next()??);
    let extensions = all(rest).find(|(tag, _)| *tag == 0xa3).and_then(|(_, found)| within(found, SEQUENCE));
    let addresses = extensions.map_or_else(Vec::new, |(found, _)| addresses(found));
    Some(Fields {
        serial: serial.to_vec(),
        issuer: common_name(issuer),
        subject: common_name(subject),
        not_before,
        not_after,
        addresses,
    })
}

fn common_name(name: &[u8]) -> String {
    let found = all(name).find_map(|(_, set)| {
        let (pair, _) = within(set, SEQUENCE)?;
        let (oid, rest) = within(pair, 6)?;
        let (_, text, _) = next(rest).filter(|_| oid == OID_NAME)?;
        Some(String::from_utf8_lossy(text).into_owned())
    });
    found.unwrap_or_default()
}

fn addresses(extensions: &[u8]) -> Vec<String> {
    let found = all(extensions).find_map(|(_, extension)| {
        let (oid, _) = within(extension, 6)?;
        let (_, value) = all(extension).find(|(tag, _)| *tag == 4).filter(|_| oid == OID_ALTERNATIVES)?;
        within(value, SEQUENCE)
    });
    let Some((names, _)) = found else { return Vec::new() };
    let address = |(tag, value): (u8, &[u8])| match tag {
        0x82 => Some(String::from_utf8_lossy(value).into_owned()),
        0x87 => {
            let v4 = || <[u8; 4]>::try_from(value).map(IpAddr::from);
            v4().or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    };
    all(names).filter_map(address).collect()
}

/// `YYMMDDHHMMSSZ`, or with four digits of the year.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if tag == 0x17 { 2 } else { 4 })?;
    let year: i64 = year.parse().ok()?;
    let year = match tag {
        0x17 if year < 50 => year + 2000,
        0x17 => year + 1900,
        _ => year,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    // Days since 1970 of a civil date: years begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    u64::try_from(((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_unix_seconds() {
        assert_eq!(time(0x17, b"700101000000Z"), Some(0));
        assert_eq!(time(0x17, b"260229235959Z"), time(0x18, b"20260301235959Z"));
        assert_eq!(time(0x18, b"20240229120000Z"), Some(1_709_208_000));
        assert_eq!(time(0x18, b"21000101000000Z"), Some(4_102_444_800));
        for bad in [&b"260101000000"[..], b"Z", b"2601Z", b"xx0101000000Z", b"\xff\xff0101000000Z"] {
            assert_eq!(time(0x17, bad), None);
        }
    }

    #[test]
    fn what_is_cut_short_or_lies_about_its_length_is_nothing() {
        for bad in [
            &b""[..],
            b"\x30",
            b"\x30\x80",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x85\0\0\0\0\0",
            b"\x30\x02\x30\x00",
        ] {
            assert!(fields(bad).is_none(), "{bad:?}");
        }
    }
}
