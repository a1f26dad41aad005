//! Tokens, for operators without a certificate. The coordinator keeps what proves one, and no token.
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use palinurus_repository::id::check_name;
use palinurus_repository::{Entropy, Error, Result, Timestamp};

use crate::files::{read, read_secret};
use crate::role::Role;
use crate::who::check_tenant;

/// So that scanners for lost secrets know one.
const PREFIX: &str = "plt_";
const LENGTH: usize = PREFIX.len() + 64;
const HEADER: &str = "# palinurus tokens: name, role (a tenant's with its services), BLAKE3 of the token, when it ends (unix seconds; 0: never)\n";

/// Never printed by accident.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    pub fn generate(entropy: &dyn Entropy) -> Result<Self> {
        let bytes: [u8; 32] = entropy.array()?;
        Ok(Self(format!("{PREFIX}{}", blake3::Hash::from_bytes(bytes).to_hex())))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let fits = text.len() == LENGTH
            && text.strip_prefix(PREFIX).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::invalid("this is no token")
            .with_hint("`palinurus tokens generate` makes one: plt_ and 64 hex digits"))
    }

    /// Where it has to be seen: once on the maker's screen, and in a call's header.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> blake3::Hash {
        blake3::hash(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// An operator's, from a file of their own.
pub fn read_token(file: &Path) -> Result<Token> {
    let text = read_secret("token", file)?;
    Token::parse(&String::from_utf8_lossy(&text)).map_err(|e| {
        Error::invalid(format!("{} holds no token", file.display())).with_hint(e.hint().unwrap_or_default())
    })
}

/// Whom a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub role: Role,
    /// A tenant's, and nobody else's.
    pub services: Vec<String>,
    /// 0: never.
    pub ends: Timestamp,
}

impl Holder {
    fn check(&self) -> Result<()> {
        if self.role == Role::Tenant {
            return check_tenant(&self.name, &self.services);
        }
        check_name("operator", &self.name)?;
        if self.services.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("{} sees every service", self.role))
            .with_hint("only a tenant's are named"))
    }

    /// `admin`, or `tenant:shop,blog`.
    fn rights(&self) -> String {
        match self.role {
            Role::Tenant => format!("{}:{}", self.role, self.services.join(",")),
            role => role.to_string(),
        }
    }
}

/// The coordinator's file.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(Holder, blake3::Hash)>);

impl Tokens {
    pub fn read(file: &Path) -> Result<Self> {
        let text = String::from_utf8(read_secret("list of tokens", file)?);
        let text = text.map_err(|_| Error::invalid(format!("{} is no text", file.display())))?;
        let lines =
            text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let parsed = lines.map(|(at, line)| {
            parse(line).ok_or_else(|| {
                Error::invalid(format!("{}: line {} is no token's", file.display(), at + 1))
                    .with_hint("`palinurus tokens generate` writes them")
            })
        });
        parsed.collect::<Result<_>>().map(Self)
    }

    /// Compares with all of them, whole, so that time tells nothing.
    pub fn holder(&self, token: &Token, now: Timestamp) -> Option<&Holder> {
        let hash = token.hash();
        let found = self
            .0
            .iter()
            .fold(None, |found, (holder, known)| if *known == hash { Some(holder) } else { found });
        found.filter(|holder| holder.ends.0 == 0 || now < holder.ends)
    }

    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.0.iter().map(|(holder, _)| holder)
    }

    /// Into the file, which is made where there is none.
    pub fn add(file: &Path, holder: &Holder, token: &Token) -> Result<()> {
        holder.check()?;
        let known = if file.exists() { Self::read(file)? } else { Self::default() };
        if known.holders().any(|known| known.name == holder.name) {
            return Err(Error::conflict(format!(
                "{} has a token for {} already",
                file.display(),
                holder.name
            ))
            .with_hint("take it away first: palinurus tokens remove"));
        }
        let failed = |e| Error::io(format!("write {}", file.display()), e);
        let mut open = File::options().append(true).create(true).mode(0o600).open(file).map_err(failed)?;
        let head = if known.0.is_empty() { HEADER } else { "" };
        let line = format!(
            "{head}{} {} {} {}\n",
            holder.name,
            holder.rights(),
            token.hash().to_hex(),
            holder.ends.0 / 1000
        );
        open.write_all(line.as_bytes()).and_then(|()| open.sync_all()).map_err(failed)
    }

    pub fn remove(file: &Path, name: &str) -> Result<()> {
        let all = Self::read(file)?;
        if !all.holders().any(|holder| holder.name == name) {
            return Err(Error::not_found(format!("{} has no token for {name}", file.display())));
        }
        let text = String::from_utf8_lossy(&read(file)?).into_owned();
        let is = |line: &&str| line.split_whitespace().next() != Some(name);
        let kept: String = text.lines().filter(is).flat_map(|line| [line, "\n"]).collect();
        let failed = |e| Error::io(format!("write {}", file.display()), e);
        let beside = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut new = tempfile::NamedTempFile::new_in(beside).map_err(failed)?;
        new.write_all(kept.as_bytes()).and_then(|()| new.as_file().sync_all()).map_err(failed)?;
        new.persist(file).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

fn parse(line: &str) -> Option<(Holder, blake3::Hash)> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let rights = words.next()?;
    let (role, services) = rights.split_once(':').map_or((rights, None), |(role, all)| (role, Some(all)));
    let services = services.map_or_else(Vec::new, |all| all.split(',').map(str::to_owned).collect());
    let role = role.parse().ok()?;
    let hash = blake3::Hash::from_hex(words.next()?).ok()?;
    let ends = Timestamp(words.next()?.parse::<u64>().ok()?.saturating_mul(1000));
    let holder = Holder { name, role, services, ends };
    (words.next().is_none() && holder.check().is_ok()).then_some((holder, hash))
}

#[cfg(test)]
mod tests {
    use palinurus_repository::entropy::SeededEntropy;

    use super::*;

    #[test]
    fn a_token_is_known_until_it_ends_or_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        let entropy = SeededEntropy::new(1);
        let (ada, bob) = (Token::generate(&entropy).unwrap(), Token::generate(&entropy).unwrap());
        let holder = |name: &str, role, ends| {
            let services = if role == Role::Tenant { vec!["shop".into(), "blog".into()] } else { Vec::new() };
            Holder { name: name.into(), role, services, ends: Timestamp(ends) }
        };
        Tokens::add(&file, &holder("ada", Role::Admin, 0), &ada).unwrap();
        Tokens::add(&file, &holder("bob", Role::Viewer, 5_000), &bob).unwrap();
        assert!(Tokens::add(&file, &holder("bob", Role::Admin, 0), &ada).is_err());
        let eve = Token::generate(&entropy).unwrap();
        Tokens::add(&file, &holder("eve", Role::Tenant, 0), &eve).unwrap();
        let nobody = Holder { services: Vec::new(), ..holder("mallory", Role::Tenant, 0) };
        assert!(Tokens::add(&file, &nobody, &eve).is_err(), "a tenant of nothing");
        let all = Holder { services: vec!["shop".into()], ..holder("mallory", Role::Admin, 0) };
        assert!(Tokens::add(&file, &all, &eve).is_err(), "an admin of one service");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&ada.reveal()[4..]), "a token is not kept");

        let tokens = Tokens::read(&file).unwrap();
        let role = |token, now| tokens.holder(token, Timestamp(now)).map(|holder| holder.role);
        assert_eq!(role(&ada, 9_000), Some(Role::Admin));
        assert_eq!(tokens.holder(&eve, Timestamp(1)), Some(&holder("eve", Role::Tenant, 0)));
        assert_eq!((role(&bob, 4_999), role(&bob, 5_000)), (Some(Role::Viewer), None));
        assert_eq!(role(&Token::generate(&entropy).unwrap(), 0), None);

        Tokens::remove(&file, "ada").unwrap();
        assert!(Tokens::remove(&file, "ada").is_err());
        let tokens = Tokens::read(&file).unwrap();
        assert!(tokens.holder(&ada, Timestamp(0)).is_none() && tokens.holder(&bob, Timestamp(0)).is_some());
    }

    #[test]
    fn what_everybody_may_read_or_nobody_understands_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        let token = Token::generate(&SeededEntropy::new(1)).unwrap();
        std::fs::write(&file, token.reveal()).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let error = read_token(&file).unwrap_err();
        assert!(error.hint().unwrap().contains("chmod 600"), "{error:?}");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(read_token(&file).unwrap().reveal(), token.reveal());
        for bad in
            ["x", "ada root 00 0", "ada admin 00 0", "../x admin 00 0", "eve tenant: 00 0", token.reveal()]
        {
            std::fs::write(&file, bad).unwrap();
            let error = Tokens::read(&file).unwrap_err();
            assert!(!format!("{error:?}").contains(&token.reveal()[4..]), "{error:?}");
        }
        assert!(!format!("{token:?}").contains(&token.reveal()[4..]));
        for bad in ["", "plt_", &token.reveal()[1..], &format!("{}0", token.reveal())] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
