//! Who is who: what a certificate or token says of its holder, the TLS over which it is shown, and the authority that
//! signs. What each may do is the coordinator's to say. `docs/operations/access.md` is the operator's side of it.
mod authority;
mod client;
mod der;
mod explain;
mod files;
mod reloading;
mod revocation;
mod revoked;
mod role;
mod server;
mod settings;
mod shown;
mod token;
mod upkeep;
mod who;

pub use authority::{Authority, Issued, VALID};
pub use client::{Dialer, check_url};
pub use reloading::Reloading;
pub use role::Role;
pub use rustls::pki_types::CertificateDer;
pub use server::{Known, Proved, Stream, TlsServer};
pub use settings::TlsConfig;
pub use shown::Shown;
pub use token::{Holder, Token, Tokens, read_token};
pub use who::Who;
