use std::path::PathBuf;

use palinurus_proto::{from_status, v1};
use palinurus_repository::Result;

use super::power;
use crate::exit::Outcome;
use crate::output::Output;
use crate::{Global, client};

pub(super) mod file;
pub(super) mod view;

use view::{Services, known_of, show, show_list, view, window_of};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes or changes a service to be as the file says.
    Apply {
        /// TOML: name, type, plan, repository, [[nodes]], [settings]; `-` reads stdin.
        file: PathBuf,
        /// Also where the plan then keeps fewer of the backups that there are.
        #[arg(long)]
        accept_forget: bool,
    },
    List,
    Show {
        /// May be left out when there is only one.
        service: Option<String>,
    },
    /// Takes a last backup; then nothing of the service begins by itself, and its backups stay whatever their age.
    PowerOff(power::Off),
    /// Restores the latest backup onto the nodes that register, and goes on with schedule and retention.
    PowerOn(power::On),
    /// Deletes a service that is off, with all of its backups.
    Delete(power::Delete),
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    match verb {
        Verb::Apply { file, accept_forget } => {
            let service = Some(file::read(&file)?);
            let mut client = client::connect(global).await?;
            let applied = client
                .apply_service(v1::ApplyServiceRequest { service, accept_forget })
                .await
                .map_err(from_status)?;
            output.data(&view(applied.into_inner()), show);
        }
        Verb::List => {
            let mut client = client::connect(global).await?;
            let reply =
                client.list_services(v1::ListServicesRequest {}).await.map_err(from_status)?.into_inner();
            output.data(&Services { services: reply.services.into_iter().map(view).collect() }, show_list);
        }
        Verb::PowerOff(off) => return power::off(off, global, output).await,
        Verb::PowerOn(on) => return power::on(on, global, output).await,
        Verb::Delete(delete) => return power::delete(delete, global, output).await,
        Verb::Show { service } => {
            let mut client = client::connect(global).await?;
            let service = client::service(&mut client, service).await?;
            let request = v1::GetServiceRequest { service: service.clone() };
            let found = client.get_service(request).await.map_err(from_status)?;
            // A repository that cannot be read must not hide the service.
            let backups = client.list_backups(v1::ListBackupsRequest { service: service.clone() }).await.ok();
            let backups = backups.map(|reply| known_of(&reply.into_inner()));
            let logs = client.show_logs(v1::ShowLogsRequest { service }).await.ok();
            let window = logs.and_then(|reply| window_of(&reply.into_inner()));
            output.data(&view(found.into_inner()).with(backups, window), show);
        }
    }
    Ok(Outcome::Done)
}
