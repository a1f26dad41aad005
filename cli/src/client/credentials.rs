//! Who the operator is, and where the coordinators are: said on the command line, in the environment, or in a file, in
//! this order. A token is never on the command line, where everybody on the machine could read it.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palinurus_identity::{Dialer, Token, read_token};
use palinurus_repository::{Error, Result, SystemClock};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::File;
use crate::Global;

const TOKEN: &str = "PALINURUS_TOKEN";

#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) server: String,
    pub(super) tls: Option<Dialer>,
    token: Option<Token>,
}

impl Credentials {
    pub(super) fn of(global: &Global) -> Result<Self> {
        // It says all there is to say: what the environment says is of another coordinator.
        if let Some(state) = &global.state {
            return Self::resolve(&Global::default(), &File::of_state(state)?, None);
        }
        let mut file = File::own()?.unwrap_or_default();
        if global.server.is_empty() && file.server.is_empty() {
            match File::of_default_state()? {
                Some(left) => return Self::resolve(&Global::default(), &left, None),
                None => file = File::default(),
            }
        }
        Self::resolve(global, &file, std::env::var(TOKEN).ok())
    }

    /// For a coordinator on this machine that encrypts nothing.
    pub(super) fn none(server: &str) -> Self {
        Self { server: server.to_owned(), tls: None, token: None }
    }

    fn resolve(global: &Global, file: &File, token: Option<String>) -> Result<Self> {
        let path = |given: &Option<PathBuf>, file: &Path| {
            let given = given.clone().unwrap_or_else(|| file.to_owned());
            (!given.as_os_str().is_empty()).then_some(given)
        };
        let server = [&global.server, &file.server].into_iter().find(|server| !server.is_empty());
        let server = server.cloned().ok_or_else(|| {
            Error::invalid("no coordinator is named, and none has been started here").with_hint(
                "start one with `palinurus up --data DIR`, or name one with --server, or what keeps it with --state",
            )
        })?;
        if !server.contains("https://") {
            return Ok(Self::none(&server));
        }
        let ca = path(&global.ca, &file.ca).ok_or_else(|| {
            Error::invalid("no authority is named, so no coordinator can be believed").with_hint(
                "name the certificate of the authority with --ca FILE; `palinurus certs init` made it",
            )
        })?;
        // A pair from one place: half from here and half from there never fits.
        let (certificate, key) = match (&global.cert, &global.cert_key) {
            (None, None) => (path(&None, &file.certificate), path(&None, &file.key)),
            _ => (global.cert.clone(), global.cert_key.clone()),
        };
        let pair = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(Error::invalid("a certificate and its key go together")
                    .with_hint("--cert FILE --cert-key FILE"));
            }
        };
        let token =
            match (token.filter(|_| global.token_file.is_none()), path(&global.token_file, &file.token_file))
            {
                (Some(text), _) => Some(Token::parse(&text).map_err(|e| {
                    Error::invalid(format!("{TOKEN} in the environment is no token"))
                        .with_hint(e.hint().unwrap_or_default())
                })?),
                (None, Some(file)) => Some(read_token(&file)?),
                (None, None) => None,
            };
        let revoked = path(&global.revoked, &file.revoked);
        let tls = Some(Dialer::open(&ca, revoked.as_deref(), pair, Arc::new(SystemClock))?);
        Ok(Self { server, tls, token })
    }

    pub(super) fn bearer(&self) -> Result<Bearer> {
        let header = |token: &Token| {
            let value = MetadataValue::try_from(format!("Bearer {}", token.reveal()));
            let mut value = value.map_err(|_| Error::internal("a token that is no header"))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        };
        self.token.as_ref().map(header).transpose().map(Bearer)
    }
}

/// Shows the token with every call, where there is one.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}
