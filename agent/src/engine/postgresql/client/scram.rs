//! SCRAM-SHA-256 (RFC 5802, 7677), the client's side. Both prove that they know the password; neither says it.
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palinurus_repository::{Entropy, Error, Result};
use ring::{digest, hmac, pbkdf2};

use super::Password;

pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
/// A server's default is 4096. What asks for far more only wants our time.
const ITERATIONS_MAX: u32 = 1_000_000;

pub(super) struct Scram {
    nonce: String,
}

/// What the server must say to be the one that knows the password.
pub(super) struct Proof(Vec<u8>);

impl Scram {
    pub(super) fn new(entropy: &dyn Entropy) -> Result<Self> {
        let random: [u8; 24] = entropy.array()?;
        Ok(Self { nonce: STANDARD.encode(random) })
    }

    /// No channel binding: the server is on this machine.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare())
    }

    fn bare(&self) -> String {
        // The server takes the name from the startup message.
        format!("n=,r={}", self.nonce)
    }

    pub(super) fn last(&self, theirs: &[u8], password: &Password) -> Result<(String, Proof)> {
        let wrong = || Error::corrupt("PostgreSQL's part of the authentication does not parse");
        let theirs = std::str::from_utf8(theirs).map_err(|_| wrong())?;
        let field = |name: &str| {
            let mut fields = theirs.split(',').filter_map(|field| field.strip_prefix(name));
            fields.next().ok_or_else(wrong)
        };
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        let salt = STANDARD.decode(salt).map_err(|_| wrong())?;
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| wrong())?;
        if !nonce.starts_with(&self.nonce)
            || nonce.len() == self.nonce.len()
            || iterations.get() > ITERATIONS_MAX
        {
            return Err(wrong());
        }
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.bytes(), &mut salted);
        let client_key = mac(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let last = format!("c=biws,r={nonce}");
        let signed = format!("{},{theirs},{last}", self.bare());
        let signature = mac(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
        Ok((format!("{last},p={}", STANDARD.encode(proof)), Proof(server)))
    }
}

impl Proof {
    pub(super) fn check(&self, theirs: &[u8]) -> Result<()> {
        let proof = theirs.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
        if proof.as_ref() == Some(&self.0) {
            return Ok(());
        }
        Err(Error::denied("what answers as PostgreSQL does not know the password either")
            .with_hint("see that engine.host and engine.port are the server's"))
    }
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::SystemEntropy;

    #[test]
    fn what_a_false_server_says_is_refused() {
        let scram = Scram::new(&SystemEntropy::new()).unwrap();
        let password = Password::of("pencil");
        let first = |nonce: &str, salt: &str, iterations: &str| format!("r={nonce},s={salt},i={iterations}");
        let longer = format!("{}more", scram.nonce);
        let good = first(&longer, "W22ZaJ0SNY7soEsUEjb6gQ==", "4096");
        let (last, proof) = scram.last(good.as_bytes(), &password).unwrap();
        assert!(last.starts_with(&format!("c=biws,r={longer},p=")) && !last.contains("pencil"));
        let right = format!("v={}", STANDARD.encode(&proof.0));
        proof.check(right.as_bytes()).unwrap();
        for wrong in [&b""[..], b"v=", b"v=AAAA", b"e=other-error"] {
            assert!(proof.check(wrong).is_err());
        }
        for bad in [
            first(&scram.nonce, "W22ZaJ0SNY7soEsUEjb6gQ==", "4096"),
            first("another", "W22ZaJ0SNY7soEsUEjb6gQ==", "4096"),
            first(&longer, "?", "4096"),
            first(&longer, "W22ZaJ0SNY7soEsUEjb6gQ==", "0"),
            first(&longer, "W22ZaJ0SNY7soEsUEjb6gQ==", "4000000000"),
            "r=".to_owned(),
            String::new(),
        ] {
            assert!(scram.last(bad.as_bytes(), &password).is_err(), "{bad}");
        }
    }
}
