//! What an authority takes back. Beside its key lie `issued`, a line for each certificate that it ever signed;
//! `revoked`, a line for each that holds no longer; and `revoked.pem`, the same for everybody else, signed.
use std::fs::File;
use std::io::Write;

use palinurus_repository::{Error, Result, Timestamp};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};

use crate::authority::{Authority, at, failed, write};
use crate::files::read;
use crate::shown::Shown;
use crate::who::Who;

const ISSUED: &str = "issued";
const REVOKED: &str = "revoked";
const LIST: &str = "revoked.pem";

impl Authority {
    /// Whoever has lost a key has often lost its certificate too: this is where its number still stands.
    pub(crate) fn note_issued(&self, shown: &Shown, who: &Who) -> Result<()> {
        let file = self.dir().join(ISSUED);
        let until = shown.not_after.0 / 1000;
        let line = format!("{} {until} {who}\n", shown.serial);
        let noted = File::options().create(true).append(true).open(&file).and_then(|mut open| {
            open.write_all(line.as_bytes())?;
            open.sync_all()
        });
        noted.map_err(|e| Error::io(format!("write {}", file.display()), e))
    }

    /// The numbers of all that was issued to somebody, the newest last.
    pub fn issued_to(&self, who: &Who) -> Result<Vec<String>> {
        let lines = self.lines(ISSUED)?;
        let wanted = who.to_string();
        let serials = lines.iter().filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            let (serial, _, named) = (words.next()?, words.next()?, words.next()?);
            (named == wanted).then(|| serial.to_owned())
        });
        Ok(serials.collect())
    }

    /// Takes certificates back, for good. Says how many the list has now.
    pub fn revoke(&self, serials: &[String], now: Timestamp) -> Result<usize> {
        let mut lines = self.lines(REVOKED)?;
        for serial in serials {
            number(serial)?;
            if !lines.iter().any(|line| line.split(' ').next() == Some(serial)) {
                lines.push(format!("{serial} {}", now.0 / 1000));
            }
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        write(&self.dir().join(REVOKED), &text, 0o644, true)?;
        self.sign_revoked(now)
    }

    pub(crate) fn has_revoked(&self, serial: &str) -> Result<bool> {
        Ok(self.lines(REVOKED)?.iter().any(|line| line.split(' ').next() == Some(serial)))
    }

    /// Without an end: an old list is better than none, and nobody has to come and renew it.
    pub(crate) fn sign_revoked(&self, now: Timestamp) -> Result<usize> {
        let mut revoked_certs = Vec::new();
        for line in self.lines(REVOKED)? {
            let unfit =
                || Error::invalid(format!("{} has a line that is none", self.dir().join(REVOKED).display()));
            let (serial, since) = line.split_once(' ').ok_or_else(unfit)?;
            revoked_certs.push(RevokedCertParams {
                serial_number: number(serial)?,
                revocation_time: at(since.parse::<u64>().map_err(|_| unfit())?.saturating_mul(1000))?,
                reason_code: None,
                invalidity_date: None,
            });
        }
        let count = revoked_certs.len();
        let list = CertificateRevocationListParams {
            this_update: at(now.0)?,
            next_update: at(self.ends().0)?,
            crl_number: SerialNumber::from(now.0),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(self.issuer()).and_then(|list| list.pem()).map_err(failed)?;
        write(&self.dir().join(LIST), &signed, 0o644, true)?;
        Ok(count)
    }

    fn lines(&self, name: &str) -> Result<Vec<String>> {
        let file = self.dir().join(name);
        if !file.exists() {
            return Ok(Vec::new());
        }
        Ok(String::from_utf8_lossy(&read(&file)?).lines().map(str::to_owned).collect())
    }
}

fn number(serial: &str) -> Result<SerialNumber> {
    let unfit = || {
        Error::invalid(format!("{:?} is not the number of a certificate", serial.get(..80).unwrap_or(serial)))
            .with_hint("`palinurus certs show FILE` shows it: hexadecimal digits")
    };
    let digits = serial.as_bytes();
    if digits.is_empty() || digits.len() > 40 || digits.len() % 2 == 1 || !serial.is_ascii() {
        return Err(unfit());
    }
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|at| serial.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    bytes.map(|bytes| SerialNumber::from_slice(&bytes)).ok_or_else(unfit)
}
