//! A mail server that keeps what it is sent, over STARTTLS alone. One name and password may log in.
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// base64 of `\0palinurus\0a word`, as AUTH PLAIN has it.
const LOGIN: &str = "AHBhbGludXJ1cwBhIHdvcmQ=";

#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    pub(super) to: Vec<String>,
    pub(super) text: String,
}

pub(super) struct Sink {
    pub(super) server: String,
    mails: Arc<Mutex<Vec<Mail>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Sink {
    /// Refuses the first few mails, for now.
    pub(super) async fn new(refused: usize, tls: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let (mails, refused) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(refused)));
        let kept = mails.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(encrypt(stream, tls.clone(), kept.clone(), refused.clone()));
            }
        });
        Self { server, mails, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }
}

async fn encrypt(
    stream: TcpStream,
    tls: TlsAcceptor,
    mails: Arc<Mutex<Vec<Mail>>>,
    refused: Arc<Mutex<usize>>,
) -> Option<()> {
    let mut stream = BufStream::new(stream);
    say(&mut stream, "220 sink").await?;
    loop {
        match line(&mut stream).await?.split(' ').next()? {
            "EHLO" => say(&mut stream, "250-sink\r\n250 STARTTLS").await?,
            "STARTTLS" => break say(&mut stream, "220 go on").await?,
            _ => say(&mut stream, "530 encrypt first").await?,
        }
    }
    serve(tls.accept(stream.into_inner()).await.ok()?, mails, refused).await
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mails: Arc<Mutex<Vec<Mail>>>,
    refused: Arc<Mutex<usize>>,
) -> Option<()> {
    let mut stream = BufStream::new(stream);
    let (mut mail, mut known) = (Mail::default(), false);
    loop {
        let line = line(&mut stream).await?;
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => say(&mut stream, "250-sink\r\n250 AUTH PLAIN").await?,
            "AUTH" => {
                known = line == format!("AUTH PLAIN {LOGIN}");
                say(&mut stream, if known { "235 welcome" } else { "535 who are you" }).await?;
            }
            "MAIL" if !known => say(&mut stream, "530 log in first").await?,
            "MAIL" => say(&mut stream, "250 go on").await?,
            "RCPT" => {
                mail.to.push(line);
                say(&mut stream, "250 go on").await?;
            }
            "DATA" => {
                say(&mut stream, "354 go on").await?;
                loop {
                    let line = self::line(&mut stream).await?;
                    if line == "." {
                        break;
                    }
                    mail.text += &line;
                    mail.text.push('\n');
                }
                let refuses = {
                    let mut refused = refused.lock().unwrap();
                    let refuses = *refused > 0;
                    *refused = refused.saturating_sub(1);
                    refuses
                };
                let mail = std::mem::take(&mut mail);
                if refuses {
                    say(&mut stream, "451 not now").await?;
                } else {
                    mails.lock().unwrap().push(mail);
                    say(&mut stream, "250 kept").await?;
                }
            }
            "QUIT" => return say(&mut stream, "221 bye").await,
            _ => say(&mut stream, "500 what").await?,
        }
    }
}

async fn line(stream: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn say(stream: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>, text: &str) -> Option<()> {
    stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}
