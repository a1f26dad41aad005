//! A server that is a fork must not act on the world that its data comes from. What it may do again is the operator's to say,
//! by `alter system reset`: these settings are in no file that anybody else writes.
use palinurus_repository::Result;

use super::recovery::{setting, without};

/// Known to every version, or of an extension: a server refuses names that it does not know.
const SETTINGS: [(&str, &str); 9] = [
    // Nothing of its WAL goes where the parent's goes.
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    // It follows nobody, and no commit waits for the parent's standbys.
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    // A subscription would take the parent's changes from its slot at the publisher; a job would run twice.
    ("max_logical_replication_workers", "0"),
    ("cron.launch_active_jobs", "off"),
];

/// The server's own settings, with these instead of what the parent had.
pub(super) fn alone(old: &str) -> Result<String> {
    let mut text = without(old, |key| SETTINGS.iter().any(|(name, _)| *name == key));
    for (key, value) in SETTINGS {
        text.push_str(&setting(key, value)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_parent_s_world_stays_and_all_else_does() {
        let old = "work_mem = '8MB'\nArchive_Mode=on\narchive_command = 'cp %p /parent/%f'\nprimary_conninfo = 'host=a'\n";
        let text = alone(old).unwrap();
        assert!(text.starts_with("work_mem = '8MB'\narchive_mode = 'off'\narchive_command = ''\n"), "{text}");
        assert!(
            text.contains("primary_conninfo = ''\n") && !text.contains("parent") && !text.contains("host=")
        );
        assert!(text.contains("max_logical_replication_workers = '0'\n"));
        assert_eq!(alone(&text).unwrap(), text, "done again, it is the same");
    }
}
