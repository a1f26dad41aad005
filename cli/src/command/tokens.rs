use std::path::PathBuf;
use std::time::Duration;

use palinurus_identity::{Holder, Role, Token, Tokens};
use palinurus_repository::{Clock, Result, SystemClock, SystemEntropy, Timestamp};
use serde::Serialize;

use crate::exit::Outcome;
use crate::human;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The coordinators' list, as their setting `tokens` names it. It holds what proves a token, and none.
    #[arg(long, value_name = "FILE", default_value = "/etc/palinurus/tokens")]
    file: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes a token, prints it this once, and puts its hash into the list.
    Generate {
        /// Whose it is.
        #[arg(long)]
        name: String,
        /// tenant looks at services of its own, viewer at all, operator starts and cancels, admin says what is protected and deletes.
        #[arg(long, value_parser = str::parse::<Role>)]
        role: Role,
        /// A tenant's; may be repeated.
        #[arg(long, required_if_eq("role", "tenant"))]
        service: Vec<String>,
        /// How long it holds, such as 90d; for ever if nothing is said.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        valid: Option<Duration>,
        #[command(flatten)]
        place: Place,
    },
    /// Who has one.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Takes one away: coordinators refuse it from then on.
    Remove {
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    role: &'static str,
    token: &'a str,
}

#[derive(Serialize)]
struct Listed {
    tokens: Vec<View>,
}

#[derive(Serialize)]
struct View {
    name: String,
    role: &'static str,
    /// A tenant's.
    services: Vec<String>,
    ends: Option<String>,
    expired: bool,
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<Outcome> {
    let now = SystemClock.now();
    match verb {
        Verb::Generate { name, role, service, valid, place } => {
            let token = Token::generate(&SystemEntropy::new())?;
            let ends = valid.map_or(Timestamp(0), |valid| now.plus(valid));
            let holder = Holder { name, role, services: service, ends };
            Tokens::add(&place.file, &holder, &token)?;
            let made = Made { name: &holder.name, role: role.name(), token: token.reveal() };
            output.data(&made, |made| made.token.to_owned());
            output.note("this is the only time that it is shown: keep it in a file that only you can read");
        }
        Verb::List { place } => list(&Tokens::read(&place.file)?, now, output),
        Verb::Remove { name, place } => {
            Tokens::remove(&place.file, &name)?;
            list(&Tokens::read(&place.file)?, now, output);
        }
    }
    Ok(Outcome::Done)
}

fn list(tokens: &Tokens, now: Timestamp, output: &Output) {
    let view = |holder: &Holder| View {
        name: holder.name.clone(),
        role: holder.role.name(),
        services: holder.services.clone(),
        ends: human::rfc3339(holder.ends.0),
        expired: holder.ends.0 != 0 && holder.ends <= now,
    };
    let listed = Listed { tokens: tokens.holders().map(view).collect() };
    output.data(&listed, |listed| {
        let row = |view: &View| {
            let ends = view.ends.clone().unwrap_or_else(|| "never".into());
            vec![
                view.name.clone(),
                view.role.into(),
                view.services.join(" "),
                if view.expired { format!("{ends} (over)") } else { ends },
            ]
        };
        let rows: Vec<Vec<String>> = listed.tokens.iter().map(row).collect();
        table(&["NAME", "ROLE", "SERVICES", "ENDS"], &[], &rows)
    });
}
