//! What deletes or overwrites is shown and confirmed.
use std::io::{BufRead, IsTerminal, Write};

use palinurus_repository::{Error, Result};

/// True to go on. Without a terminal to ask on, only `--yes` goes on.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::invalid("this needs a confirmation and there is no terminal to ask on")
            .with_hint("look at what it will do, then repeat the command with --yes"));
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Error::io("read the answer", error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
