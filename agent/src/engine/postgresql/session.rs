//! The session in which a backup was begun. The server keeps the backup open as long as the session lives, and ends
//! it with the session: whatever becomes of us, no backup stays open.
use std::sync::Arc;

use palinurus_repository::{Error, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::broken::Broken;
use super::client::Client;
use super::lsn::Lsn;
use super::server::text;

/// What the server gives when a backup ends, to be kept byte for byte.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) stop: Lsn,
    pub(super) label: String,
    pub(super) tablespaces: String,
}

#[derive(Debug)]
pub(super) struct Session {
    end: Option<oneshot::Sender<oneshot::Sender<Result<Ended>>>>,
    task: JoinHandle<()>,
}

/// Begins a backup; a checkpoint is part of that. `label` is a name of ours.
pub(super) async fn begin(sql: &mut Client, major: u32, label: &str) -> Result<Lsn> {
    let mut settings =
        "set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0"
            .to_owned();
    if major >= 14 {
        settings.push_str("; set idle_session_timeout = 0");
    }
    sql.query(&settings).await?;
    let start = match major {
        15.. => format!("select pg_backup_start('palinurus {label}', true)"),
        _ => format!("select pg_start_backup('palinurus {label}', true, false)"),
    };
    text(&sql.one(&start).await?, 0)?.parse()
}

impl Session {
    /// Holds `sql`, in which a backup is open, until it is asked to end that or cancelled.
    pub(super) fn hold(mut sql: Client, major: u32, broken: Arc<Broken>, cancel: CancellationToken) -> Self {
        let (end, asked) = oneshot::channel::<oneshot::Sender<Result<Ended>>>();
        let task = tokio::spawn(async move {
            let answer = tokio::select! {
                biased;
                () = cancel.cancelled() => return sql.end().await,
                asked = asked => asked,
                error = sql.idle() => return broken.set(&error),
            };
            if let Ok(answer) = answer {
                let ended = tokio::select! {
                    biased;
                    () = cancel.cancelled() => Err(Error::unavailable("cancelled")),
                    ended = stop(&mut sql, major) => ended,
                };
                // Who does not want to know has been cancelled.
                let _ = answer.send(ended);
            }
            sql.end().await;
        });
        Self { end: Some(end), task }
    }

    /// Ends the backup, once.
    pub(super) async fn stop(&mut self) -> Result<Ended> {
        let gone = || Error::conflict("the backup's session is over").with_hint("start the backup again");
        let (answer, ended) = oneshot::channel();
        self.end.take().ok_or_else(gone)?.send(answer).map_err(|_| gone())?;
        ended.await.map_err(|_| gone())?
    }

    /// When it is closed.
    pub(super) async fn closed(self) {
        let _ = self.task.await;
    }
}

async fn stop(sql: &mut Client, major: u32) -> Result<Ended> {
    // The WAL is taken over the stream: nobody needs to wait for an archive.
    let stop = match major {
        15.. => "select lsn, labelfile, spcmapfile from pg_backup_stop(false)",
        _ => "select lsn, labelfile, spcmapfile from pg_stop_backup(false, false)",
    };
    let row = sql.one(stop).await?;
    let tablespaces = row.get(2).and_then(Option::as_deref).unwrap_or_default().to_owned();
    Ok(Ended { stop: text(&row, 0)?.parse()?, label: text(&row, 1)?.to_owned(), tablespaces })
}
