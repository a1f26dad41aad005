//! How far a restore goes, as it is said on the command line: `--to`.
use std::time::UNIX_EPOCH;

use palinurus_proto::v1::log_target::Target;
use palinurus_repository::{Error, Result};

use crate::human;

/// `latest`, `immediate`, a time, a position as `16/B374D848`, or `name:` and a restore point's name.
pub(crate) fn parse(text: &str) -> Result<Target> {
    match text {
        "latest" => return Ok(Target::Latest(true)),
        "immediate" => return Ok(Target::Immediate(true)),
        _ => {}
    }
    if let Some(name) = text.strip_prefix("name:").filter(|name| !name.is_empty()) {
        return Ok(Target::Name(name.to_owned()));
    }
    if let Some((high, low)) = text.split_once('/') {
        let part = |text| u32::from_str_radix(text, 16).map(u64::from).map_err(|_| unusable(text));
        return Ok(Target::Position(part(high)? << 32 | part(low)?));
    }
    time(text).map(Target::TimeUs).ok_or_else(|| unusable(text))
}

/// In UTC, whatever way that is said.
fn time(text: &str) -> Option<i64> {
    let text = ["+00:00", "+00"].iter().find_map(|zone| text.strip_suffix(zone)).unwrap_or(text);
    let time = humantime::parse_rfc3339_weak(text.trim_end()).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()
}

fn unusable(text: &str) -> Error {
    Error::invalid(format!("--to {text:?} says no moment")).with_hint(
        "latest, immediate, a time in UTC like \"2026-05-01 12:30:00.5Z\", a position like 16/B374D848, \
         or name:NAME of a restore point; `palinurus logs show` says what there is",
    )
}

pub(crate) fn position(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

pub(crate) fn show(target: &Target) -> String {
    match target {
        Target::Latest(_) => "the end of what is stored".into(),
        Target::Immediate(_) => "the backup's own moment".into(),
        Target::Position(at) => position(*at),
        Target::Name(name) => format!("restore point {}", human::name(name.as_bytes())),
        Target::Follow(_) => "no end: it follows the primary".into(),
        Target::TimeUs(at) => moment(u64::try_from(*at).unwrap_or_default()),
    }
}

/// As exact as it was said.
fn moment(unix_us: u64) -> String {
    let text = human::time(unix_us / 1000);
    match unix_us % 1_000_000 {
        0 => text,
        part => text.replace('Z', format!(".{part:06}").trim_end_matches('0')) + "Z",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_it() {
        for (text, target) in [
            ("latest", Target::Latest(true)),
            ("immediate", Target::Immediate(true)),
            ("16/B374D848", Target::Position(0x16_b374_d848)),
            ("name:before the drop", Target::Name("before the drop".into())),
            ("2001-09-09T01:46:40.123456Z", Target::TimeUs(1_000_000_000_123_456)),
            ("2001-09-09 01:46:40+00", Target::TimeUs(1_000_000_000_000_000)),
        ] {
            assert_eq!(parse(text).unwrap(), target, "{text}");
        }
        for text in ["", "now", "name:", "x/1", "1/100000000", "2001-09-09 01:46:40+02", "16"] {
            assert!(parse(text).unwrap_err().hint().is_some(), "{text}");
        }
        assert_eq!(position(0x16_b374_d848), "16/B374D848");
        assert_eq!(show(&Target::TimeUs(1_000_000_000_123_450)), "2001-09-09 01:46:40.12345Z");
        assert_eq!(show(&Target::TimeUs(1_000_000_000_000_000)), "2001-09-09 01:46:40Z");
    }
}
