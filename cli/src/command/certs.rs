use std::path::PathBuf;
use std::time::Duration;

use palinurus_identity::{Authority, Issued, Role, Shown, VALID, Who};
use palinurus_repository::{Clock, Error, Result, SystemClock, SystemEntropy, Timestamp};
use serde::Serialize;

use crate::exit::Outcome;
use crate::human;
use crate::output::{Output, fields};

/// Of an authority; what it signs ends before it does.
const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes a certificate authority in a directory of its own. Its key signs for everybody: keep it away from the nodes.
    Init {
        dir: PathBuf,
        /// How long it holds, such as 5y.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10y")]
        valid: Duration,
    },
    /// Issues a certificate and its key.
    Issue {
        /// The authority's, where the new files are put as well.
        dir: PathBuf,
        #[command(subcommand)]
        whom: Whom,
        /// How long it holds, such as 90d.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, global = true)]
        valid: Option<Duration>,
        /// Put a new certificate and key in the place of those that are there.
        #[arg(long, global = true)]
        renew: bool,
    },
    /// Says whose a certificate is, and until when it holds.
    Show { file: PathBuf },
    /// Takes certificates back, for good, and signs a new revoked.pem, which goes to whoever names it in [tls].
    Revoke {
        /// The authority's.
        dir: PathBuf,
        /// The certificate that is to hold no longer.
        #[arg(required_unless_present_any = ["serial", "who"])]
        file: Option<PathBuf>,
        /// Its number instead; may be repeated.
        #[arg(long)]
        serial: Vec<String>,
        /// All that was issued to somebody until now, such as palinurus://service/shop/node/n1.
        #[arg(long, value_name = "URI", value_parser = str::parse::<Who>)]
        who: Option<Who>,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Whom {
    /// For one coordinator, and every address under which it is reached.
    Coordinator {
        #[arg(long)]
        name: String,
        /// A host name or address, without port; may be repeated. This machine's own are always among them.
        #[arg(long, value_name = "HOST")]
        address: Vec<String>,
    },
    /// For the agent of one node.
    Agent {
        #[arg(long)]
        service: String,
        #[arg(long, required_unless_present = "spare", conflicts_with = "spare")]
        node: Option<String>,
        /// For a spare: it may take another's place, and is refused as any other node.
        #[arg(long, value_name = "NODE")]
        spare: Option<String>,
    },
    /// For somebody who gives commands.
    Operator {
        #[arg(long)]
        name: String,
        /// viewer looks, operator starts and cancels, admin says what is protected and deletes.
        #[arg(long, value_parser = str::parse::<Role>)]
        role: Role,
    },
    /// For somebody who looks at services of theirs, and sees no others.
    Tenant {
        #[arg(long)]
        name: String,
        /// May be repeated.
        #[arg(long, required = true)]
        service: Vec<String>,
    },
}

#[derive(Serialize)]
struct Revoked {
    /// These, now.
    serials: Vec<String>,
    /// As many in all.
    count: usize,
}

#[derive(Serialize)]
struct View {
    file: String,
    serial: String,
    key: Option<String>,
    who: Option<String>,
    subject: String,
    issuer: String,
    addresses: Vec<String>,
    not_before: Option<String>,
    not_after: Option<String>,
    expired: bool,
    days_left: u64,
}

pub(crate) fn run(verb: Verb, output: &Output) -> Result<Outcome> {
    let now = SystemClock.now();
    match verb {
        Verb::Init { dir, valid } => {
            let made = Authority::init(&dir, valid.min(AUTHORITY_VALID * 5), now, &SystemEntropy::new())?;
            tell(&made, now, output)?;
            output.note("its key signs for everybody: keep it where nobody else comes");
        }
        Verb::Issue { dir, whom, valid, renew } => {
            let (who, addresses) = of(whom)?;
            let made = Authority::open(&dir)?.issue(&who, &addresses, valid.unwrap_or(VALID), now, renew)?;
            tell(&made, now, output)?;
        }
        Verb::Show { file } => {
            let view = view(&file, None, now)?;
            output.data(&view, show);
            if view.expired {
                output.warn("it has expired: nobody believes it any more");
                return Ok(Outcome::Warnings);
            }
        }
        Verb::Revoke { dir, file, serial, who } => {
            let authority = Authority::open(&dir)?;
            let mut serials = serial;
            serials.extend(file.map(|file| Shown::read(&file)).transpose()?.map(|shown| shown.serial));
            if let Some(who) = who {
                let issued = authority.issued_to(&who)?;
                if issued.is_empty() {
                    return Err(Error::not_found(format!("nothing was issued to {who} here")).with_hint(
                        "the file `issued` beside the authority's key has a line for each certificate",
                    ));
                }
                serials.extend(issued);
            }
            let count = authority.revoke(&serials, now)?;
            output.data(&Revoked { serials, count }, |revoked| {
                format!("revoked: {}\n{} in all\n", revoked.serials.join(" "), revoked.count)
            });
            output.note("copy revoked.pem to the coordinators and agents: it is in force within a second");
        }
    }
    Ok(Outcome::Done)
}

fn of(whom: Whom) -> Result<(Who, Vec<String>)> {
    Ok(match whom {
        Whom::Coordinator { name, mut address } => {
            address.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
            address.sort();
            address.dedup();
            (Who::Coordinator { name }, address)
        }
        Whom::Agent { service, node, spare } => {
            let is_spare = spare.is_some();
            let node = spare.or(node).ok_or_else(|| Error::invalid("no node is named"))?;
            (Who::Agent { service, node, spare: is_spare }, Vec::new())
        }
        Whom::Operator { role: Role::Tenant, .. } => {
            return Err(Error::invalid("a tenant is bound to services")
                .with_hint("palinurus certs issue DIR tenant --name NAME --service SERVICE"));
        }
        Whom::Operator { name, role } => (Who::Operator { name, role }, Vec::new()),
        Whom::Tenant { name, service } => (Who::Tenant { name, services: service }, Vec::new()),
    })
}

fn tell(made: &Issued, now: Timestamp, output: &Output) -> Result<()> {
    output.data(&view(&made.certificate, Some(&made.key), now)?, show);
    Ok(())
}

fn view(file: &std::path::Path, key: Option<&PathBuf>, now: Timestamp) -> Result<View> {
    let shown = Shown::read(file)?;
    let left = shown.remains(now);
    Ok(View {
        file: file.display().to_string(),
        serial: shown.serial,
        key: key.map(|key| key.display().to_string()),
        who: shown.who.as_ref().map(ToString::to_string),
        subject: shown.subject,
        issuer: shown.issuer,
        addresses: shown.addresses,
        not_before: human::rfc3339(shown.not_before.0),
        not_after: human::rfc3339(shown.not_after.0),
        expired: left.is_none(),
        days_left: left.map_or(0, |left| left.as_secs() / (24 * 3600)),
    })
}

fn show(view: &View) -> String {
    let clean = |text: &str| human::name(text.as_bytes());
    let until = view.not_after.clone().unwrap_or_default();
    let until = if view.expired {
        format!("{until} (expired)")
    } else {
        format!("{until} ({} days)", view.days_left)
    };
    let mut lines = vec![("certificate", view.file.clone())];
    lines.extend(view.key.iter().map(|key| ("key", key.clone())));
    lines.push(("who", view.who.clone().unwrap_or_else(|| clean(&view.subject))));
    lines.push(("issued by", clean(&view.issuer)));
    if !view.addresses.is_empty() {
        lines.push(("for", clean(&view.addresses.join(" "))));
    }
    lines.push(("serial", view.serial.clone()));
    lines.extend([("from", view.not_before.clone().unwrap_or_default()), ("until", until)]);
    fields(&lines)
}
