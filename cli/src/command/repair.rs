//! Mends a damaged repository: what it would do is shown first.
use palinurus_proto::{from_status, v1};
use palinurus_repository::verify::{self, ReadData};
use palinurus_repository::{Repository, Result, repair, storage};
use serde::Serialize;

use crate::command::repository::KnownPlace;
use crate::confirm::confirm;
use crate::exit::Outcome;
use crate::given::Given;
use crate::output::{Output, fields, table};
use crate::{Global, client, follow, human};

#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// Through the coordinator; may be left out when there is only one.
    #[arg(value_name = "SERVICE", conflicts_with = "repository")]
    service: Option<String>,
    /// The damaged repository, mended without a coordinator from a copy.
    #[arg(long, value_name = "URL", requires = "from")]
    repository: Option<String>,
    /// A copy of it that `repository copy` made.
    #[arg(long, value_name = "URL", requires = "repository")]
    from: Option<String>,
    #[command(flatten)]
    given: Given,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(wanted: Repair, global: &Global, output: &Output) -> Result<Outcome> {
    match (wanted.repository, wanted.from) {
        (Some(repository), Some(from)) => from_copy(repository, from, wanted.given, wanted.yes, output).await,
        _ => from_nodes(wanted.service, wanted.yes, global, output).await,
    }
}

#[derive(Default, Serialize)]
struct Mended {
    backups: u64,
    manifests: u64,
    chunks: u64,
    chunks_lost: u64,
    /// Backups that need something damaged still.
    spoiled: u64,
}

/// A backup stores anew what the nodes still hold; then older backups are given manifests that name it.
async fn from_nodes(service: Option<String>, yes: bool, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    let service = client::service(&mut client, service).await?;
    // Tells the ledger of what is missing or cut, and looks again at what is known to be damaged.
    let request = v1::CheckRepositoryRequest { service: service.clone(), ..Default::default() };
    let started = client.check_repository(request).await.map_err(from_status)?.into_inner();
    output.note(format!("operation {} (check of what is known)", started.id));
    let checked = follow::follow(global, output, &started.id).await?;
    if checked.failure.is_some() && checked.verify.as_ref().is_none_or(|detail| detail.damage_count == 0) {
        return follow::outcome(&checked);
    }
    let request = v1::ListBackupsRequest { service: service.clone() };
    let backups = client.list_backups(request).await.map_err(from_status)?.into_inner().backups;
    let spoiled = backups.iter().filter(|backup| backup.spoiled).count();
    if spoiled == 0 {
        output.note("no backup needs anything that is known to be damaged; `repository check --read-data` looks at all");
        output.data(&Mended::default(), |_| String::new());
        return Ok(Outcome::Done);
    }
    output.note(format!(
        "{spoiled} of {} backups need what is damaged. A backup of {service} is taken: it stores anew what the nodes \
         still hold. Then these backups are given manifests that name it there. What no node and no backup holds stays \
         lost.",
        backups.len()
    ));
    if !confirm(yes, "Go on?")? {
        output.note("nothing was changed");
        return Ok(Outcome::Declined);
    }
    let request = v1::StartBackupRequest { service: service.clone(), full: false };
    let started = client.start_backup(request).await.map_err(from_status)?.into_inner();
    output.note(format!("operation {} (backup)", started.id));
    let ended = follow::follow(global, output, &started.id).await?;
    if ended.failure.is_some() {
        return follow::outcome(&ended);
    }
    let request = v1::RepairRepositoryRequest { service };
    let started = client.repair_repository(request).await.map_err(from_status)?.into_inner();
    output.note(format!("operation {} (repair)", started.id));
    let ended = follow::follow(global, output, &started.id).await?;
    let Some(mend) = ended.verify.as_ref().and_then(|detail| detail.mend) else {
        return follow::outcome(&ended);
    };
    let mended = Mended {
        backups: mend.backups,
        manifests: mend.manifests,
        chunks: mend.chunks,
        chunks_lost: mend.chunks_lost,
        spoiled: mend.spoiled,
    };
    output.data(&mended, show_mended);
    if mended.spoiled == 0 {
        return Ok(Outcome::Done);
    }
    output.note("a copy may have the rest: `palinurus repository repair --repository URL --from COPY`");
    Ok(Outcome::Corrupt)
}

fn show_mended(mended: &Mended) -> String {
    let chunks = format!("{} found, {} lost", human::count(mended.chunks), human::count(mended.chunks_lost));
    fields(&[
        ("mended", format!("{} backups, {} manifests", mended.backups, mended.manifests)),
        ("chunks", chunks),
        ("spoiled", format!("{} backups still", mended.spoiled)),
    ])
}

#[derive(Serialize)]
struct PutBack {
    objects: Vec<String>,
    left: Vec<Left>,
}

#[derive(Serialize)]
struct Left {
    object: String,
    what: String,
}

/// Objects get their bytes back: nothing is written but what is damaged or missing now.
async fn from_copy(url: String, from: String, given: Given, yes: bool, output: &Output) -> Result<Outcome> {
    let damaged = storage::open(&url)?;
    let keys = given.read(output).await?;
    let nobody = || Given { keys: Vec::new(), key_command: Vec::new() };
    let copy = KnownPlace::new(from, nobody()).open_with(&keys).await?;
    let mut base = repair::put_back_base(&damaged, &copy, false).await?;
    if !base.is_empty() {
        output.note(format!(
            "without these, which the copy has, the repository does not open: {}",
            base.join(" ")
        ));
        if !confirm(yes, "Put them back?")? {
            output.note("nothing was changed");
            return Ok(Outcome::Declined);
        }
        repair::put_back_base(&damaged, &copy, true).await?;
    }
    let repository = KnownPlace::new(url, nobody()).open_with(&keys).await?;
    output.note("reads the whole repository to find all damage");
    let report = verify::check(&repository, ReadData::All, &|_| {}).await?;
    let mut planned = put_back(&repository, &copy, &report, false).await?;
    if !planned.objects.is_empty() {
        output.note(format!("the copy has whole: {}", planned.objects.join(" ")));
        if !confirm(yes, "Replace the damaged objects with these?")? {
            output.note("nothing was changed");
            return Ok(Outcome::Declined);
        }
        planned = put_back(&repository, &copy, &report, true).await?;
        output.note("a check through the coordinator takes the mark off backups that are whole again");
    }
    base.append(&mut planned.objects);
    planned.objects = base;
    output.data(&planned, show_put_back);
    Ok(if planned.left.is_empty() { Outcome::Done } else { Outcome::Corrupt })
}

async fn put_back(
    repository: &Repository,
    copy: &Repository,
    report: &verify::Report,
    act: bool,
) -> Result<PutBack> {
    let done = repair::put_back(repository, copy.storage(), report, act, &|_, _| {}).await?;
    let left = done.left.into_iter();
    Ok(PutBack {
        objects: done.objects,
        left: left.map(|(object, what)| Left { object, what: human::name(what.as_bytes()) }).collect(),
    })
}

fn show_put_back(put_back: &PutBack) -> String {
    let rows: Vec<Vec<String>> = put_back.objects.iter().map(|object| vec![object.clone()]).collect();
    let back =
        if rows.is_empty() { "nothing was put back\n".to_owned() } else { table(&["PUT BACK"], &[], &rows) };
    let rows: Vec<Vec<String>> =
        put_back.left.iter().map(|left| vec![left.object.clone(), left.what.clone()]).collect();
    if rows.is_empty() {
        return back;
    }
    format!("{back}\n{}", table(&["STAYS DAMAGED", "BECAUSE"], &[], &rows))
}
