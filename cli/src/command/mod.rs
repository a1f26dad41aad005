//! One file a noun.
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod cluster;
pub(crate) mod config;
mod copy;
pub(crate) mod daemon;
pub(crate) mod demo;
pub(crate) mod drill;
pub(crate) mod failover;
mod fleet;
pub(crate) mod keys;
pub(crate) mod locked;
pub(crate) mod logs;
pub(crate) mod missing;
pub(crate) mod node;
pub(crate) mod offline;
pub(crate) mod operation;
pub(crate) mod plan;
mod power;
mod repair;
pub(crate) mod repository;
pub(crate) mod requests;
pub(crate) mod restore;
pub(crate) mod retention;
pub(crate) mod service;
mod standing;
pub(crate) mod tokens;
pub(crate) mod up;

use palinurus_repository::Result;

use crate::Global;
use crate::exit::Outcome;
use crate::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Backs up one directory of this machine: coordinator and agent in one process, until Ctrl-C.
    Up(up::Up),
    /// Shows all of it on this machine in a minute: backups, a lost node, its restore, the proof.
    Demo(demo::Demo),
    /// Measures backup and restore beside this machine's limit and others.
    Bench(bench::Bench),
    /// The protected clusters.
    #[command(subcommand)]
    Service(service::Verb),
    /// Take, look at and delete backups.
    #[command(subcommand)]
    Backup(backup::Verb),
    /// What the database writes between two backups: how much of it is stored, and where it leads.
    #[command(subcommand)]
    Logs(logs::Verb),
    /// Which backups stay, why, and what goes.
    #[command(subcommand)]
    Retention(retention::Verb),
    /// The types of services and their plans: how often a backup is made, and what stays.
    #[command(subcommand)]
    Plan(plan::Verb),
    /// Restore through the coordinator (plan, apply), or straight from a repository (--repository).
    Restore(restore::Restore),
    /// Restore a backup beside the data for proof, and see when each was last proved.
    #[command(subcommand)]
    Drill(drill::Verb),
    /// Give a lost node's place and data to another agent: plan, apply, and what happened by itself.
    #[command(subcommand)]
    Failover(failover::Verb),
    /// Long work: what runs and what ran.
    #[command(subcommand)]
    Operation(operation::Verb),
    /// The members of the clusters and their agents.
    #[command(subcommand)]
    Node(node::Verb),
    /// The coordinators.
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// What lies in the object store.
    #[command(subcommand)]
    Repository(repository::Verb),
    /// Operator keys: without one, no backup can be read.
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Certificates, by which coordinators, agents and operators know each other.
    #[command(subcommand)]
    Certs(certs::Verb),
    /// Tokens, for operators without a certificate.
    #[command(subcommand)]
    Tokens(tokens::Verb),
    /// A coordinator's record of who changed what.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Runs a coordinator until it is told to end.
    Coordinator(daemon::Daemon),
    /// Runs the agent of a node until it is told to end.
    Agent(daemon::Daemon),
    /// Settings: what is in force, and why.
    #[command(subcommand)]
    Config(config::Verb),
}

pub(crate) async fn run(command: Command, global: &Global, output: &Output) -> Result<Outcome> {
    match command {
        Command::Up(args) => Box::pin(up::run(args, global, output)).await,
        Command::Demo(demo) => demo::run(demo, global, output).await,
        Command::Bench(bench) => bench::run(bench, global, output).await,
        Command::Service(verb) => service::run(verb, global, output).await,
        Command::Backup(verb) => backup::run(verb, global, output).await,
        Command::Plan(verb) => plan::run(verb, global, output).await,
        Command::Logs(verb) => logs::run(verb, global, output).await,
        Command::Restore(restore) => restore::run(restore, global, output).await,
        Command::Retention(verb) => retention::run(verb, global, output).await,
        Command::Drill(verb) => drill::run(verb, global, output).await,
        Command::Failover(verb) => failover::run(verb, global, output).await,
        Command::Operation(verb) => operation::run(verb, global, output).await,
        Command::Node(verb) => node::run(verb, global, output).await,
        Command::Cluster(verb) => cluster::run(verb, global, output).await,
        Command::Repository(verb) => repository::run(verb, global, output).await,
        Command::Keys(verb) => keys::run(verb, output).await,
        Command::Certs(verb) => certs::run(verb, output),
        Command::Tokens(verb) => tokens::run(verb, output),
        Command::Audit(verb) => audit::run(verb, output),
        Command::Coordinator(daemon) => daemon::coordinator(daemon, global.insecure_plaintext, output).await,
        Command::Agent(daemon) => daemon::agent(daemon, output).await,
        Command::Config(verb) => config::run(&verb, output),
    }
}
