//! Proves who we are, in whichever way the server's `pg_hba.conf` asks for.
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use md5::{Digest, Md5};
use palinurus_repository::{Error, ErrorKind, Result};

use super::response::error_of;
use super::scram::{MECHANISM, Scram};
use super::{Client, put_text, unexpected};
use crate::engine::postgresql::config::Access;

const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Never shown.
pub(in crate::engine::postgresql) struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// The file's first line. Read for each connection: it may be changed under us.
    pub(in crate::engine::postgresql) fn read(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("read engine.password_file {}", path.display()), e);
        let mode = path.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::denied(format!("engine.password_file {} is open to others", path.display()))
                .with_hint(format!("chmod 600 {}", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(line.to_owned())),
            _ => Err(Error::invalid(format!("engine.password_file {} is empty", path.display()))),
        }
    }

    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Client {
    pub(super) async fn authenticate(&mut self, access: &Access) -> Result<()> {
        loop {
            let (code, rest) = self.challenge().await?;
            match code {
                OK => return Ok(()),
                CLEARTEXT => self.answer(&access.password()?.0).await?,
                MD5 if rest.len() == 4 => {
                    let answer = md5_answer(&access.config.user, &access.password()?, &rest);
                    self.answer(&answer).await?;
                }
                SASL => return self.sasl(&rest, access).await,
                other => {
                    return Err(Error::denied(format!(
                        "PostgreSQL asks for authentication {other}, which is not known here"
                    ))
                    .with_hint("let pg_hba.conf ask this user for scram-sha-256, md5 or peer"));
                }
            }
        }
    }

    async fn sasl(&mut self, mechanisms: &[u8], access: &Access) -> Result<()> {
        if !mechanisms.split(|byte| *byte == 0).any(|name| name == MECHANISM.as_bytes()) {
            return Err(Error::denied(format!("PostgreSQL does not offer {MECHANISM}")));
        }
        let scram = Scram::new(access.entropy.as_ref())?;
        let first = scram.first();
        let mut body = BytesMut::new();
        put_text(&mut body, MECHANISM)?;
        body.put_u32(first.len() as u32);
        body.put_slice(first.as_bytes());
        self.write(Some(b'p'), &body).await?;
        let theirs = self.expect(SASL_CONTINUE).await?;
        let (last, proof) = scram.last(&theirs, &access.password()?)?;
        self.write(Some(b'p'), last.as_bytes()).await?;
        let theirs = self.expect(SASL_FINAL).await?;
        proof.check(&theirs)?;
        self.expect(OK).await.map(drop)
    }

    async fn expect(&mut self, want: u32) -> Result<Bytes> {
        match self.challenge().await? {
            (code, rest) if code == want => Ok(rest),
            (code, _) => {
                Err(Error::corrupt(format!("PostgreSQL answers {code} in the middle of authentication")))
            }
        }
    }

    async fn challenge(&mut self) -> Result<(u32, Bytes)> {
        loop {
            let mut message = self.read().await?;
            match message.tag {
                b'R' if message.body.len() >= 4 => return Ok((message.body.get_u32(), message.body)),
                b'E' => {
                    let error = error_of(&message.body);
                    // A server that is full or starting has a hint of its own.
                    return Err(match error.kind() {
                        ErrorKind::Denied => error.with_hint(
                            "see engine.user and engine.password_file, and that pg_hba.conf lets this user in, \
                             for databases and for replication",
                        ),
                        _ => error,
                    });
                }
                b'N' => {}
                _ => return Err(unexpected(&message)),
            }
        }
    }

    async fn answer(&mut self, text: &str) -> Result<()> {
        let mut body = BytesMut::new();
        put_text(&mut body, text)?;
        self.write(Some(b'p'), &body).await
    }
}

fn md5_answer(user: &str, password: &Password, salt: &[u8]) -> String {
    let hex = |parts: [&[u8]; 2]| {
        let digest = Md5::new().chain_update(parts[0]).chain_update(parts[1]).finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let inner = hex([password.bytes(), user.as_bytes()]);
    format!("md5{}", hex([inner.as_bytes(), salt]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_from_a_closed_file_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(Password::read(&path).unwrap_err().hint().unwrap().contains("chmod 600"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let password = Password::read(&path).unwrap();
        assert_eq!(password.bytes(), b"s3cret");
        assert!(!format!("{password:?}").contains("s3cret"));
    }

    #[test]
    fn md5_as_the_server_computes_it() {
        // select 'md5' || md5(md5('s3cretbackup') || '\x01020304')
        let answer = md5_answer("backup", &Password("s3cret".into()), &[1, 2, 3, 4]);
        assert_eq!(answer.len(), 35);
        assert_ne!(answer, md5_answer("backup", &Password("s3cret".into()), &[1, 2, 3, 5]));
    }
}
