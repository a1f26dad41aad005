//! Numbers and names for eyes.
use std::time::{Duration, UNIX_EPOCH};

pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `2026-05-01 12:03:11Z`; nothing for "never".
pub(crate) fn time(unix_ms: u64) -> String {
    if unix_ms == 0 { "-".into() } else { rfc3339(unix_ms).unwrap_or_default().replacen('T', " ", 1) }
}

/// For JSON. 0 is "not yet".
pub(crate) fn rfc3339(unix_ms: u64) -> Option<String> {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).filter(|_| unix_ms != 0)?;
    // Past the year 9999 humantime refuses to print.
    (unix_ms < 253_402_300_800_000).then(|| humantime::format_rfc3339_seconds(time).to_string())
}

pub(crate) fn seconds(milliseconds: u64) -> String {
    if milliseconds < 60_000 {
        return format!("{:.1} s", milliseconds as f64 / 1000.0);
    }
    humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string()
}

pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name that came from a disk or another machine, made harmless for a terminal.
pub(crate) fn name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_three_digits() {
        let shown: Vec<String> = [0, 1023, 1024, 10 << 20, 1_073_000_000, u64::MAX].map(size).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "10.0 MiB", "1.00 GiB", "16.0 EiB"]);
    }

    #[test]
    fn times_and_counts() {
        assert_eq!(time(0), "-");
        assert_eq!(time(1_000), "1970-01-01 00:00:01Z");
        assert_eq!(rfc3339(u64::MAX), None);
        assert_eq!(
            (count(7), count(1234), count(1_234_567)),
            ("7".into(), "1,234".into(), "1,234,567".into())
        );
        assert_eq!((seconds(1234), seconds(61_000)), ("1.2 s".into(), "1m 1s".into()));
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(name(b"a\x1b[2Jb\n\xff"), "a\\u{1b}[2Jb\\n\u{fffd}");
    }
}
