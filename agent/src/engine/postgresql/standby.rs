//! A restored data directory that is to be a standby: it goes along the log as far as that is stored, and on behind the primary.
use std::path::Path;

use palinurus_repository::Result;

use super::logs::WalIdentity;
use super::recovery::{SETTINGS, STANDBY, give, read, restore_command, setting, without_recovery};
use crate::engine::Plan;

/// `primary` is how the server reaches the primary. Blocks.
pub(super) fn prepare(root: &Path, primary: &str, plan: &Plan, command: &[String]) -> Result<()> {
    let text = settings(&read(root)?, primary, plan, command)?;
    // The signal last: nothing can be started yet, and what is written over it again is the same.
    for (name, text) in [(SETTINGS, text.as_str()), (STANDBY, "")] {
        give(root, name, text.as_bytes())?;
    }
    Ok(())
}

fn settings(old: &str, primary: &str, plan: &Plan, command: &[String]) -> Result<String> {
    let mut text = without_recovery(old);
    text.push_str(&setting("primary_conninfo", primary)?);
    if let Some(last) = plan.chain.last() {
        text.push_str(&setting("restore_command", &restore_command(command))?);
        // The server looks for the newest timeline by counting up from the backup's, and stops at the first number that is
        // another recovery's: then only the number leads along the chain.
        if plan.chain.len() > 1 {
            let timeline = WalIdentity::decode(&last.lineage.identity)?.timeline;
            text.push_str(&setting("recovery_target_timeline", &timeline.to_string())?);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Target;

    #[test]
    fn it_follows_this_primary_and_no_other() {
        let plan = Plan {
            chain: Vec::new(),
            known: Vec::new(),
            first: 0,
            end: 0,
            target: Target::Follow,
            fork: false,
        };
        let kept = "work_mem = '8MB'\n";
        let old = "primary_conninfo = 'host=old'\nprimary_slot_name = 's'\nrestore_command = 'x'\n";
        let (primary, none) = ("host=db1 passfile='/etc/it'", &[][..]);
        let text = settings(&format!("{kept}{old}"), primary, &plan, none).unwrap();
        assert_eq!(text, format!("{kept}primary_conninfo = 'host=db1 passfile=''/etc/it'''\n"));
        assert_eq!(settings(&text, primary, &plan, none).unwrap(), text);
        assert!(settings(old, "host=a\nhost=b", &plan, none).is_err());
    }
}
