//! `gs://` and `az://`, by object_store. Asks once; [`crate::storage::Retried`] asks again.
use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Certificate, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, RetryConfig,
};

use self::error::Call;
use super::address::Address;
use super::counted::Counts;
use super::remote::{CONNECT, IDLE, Remote, collect, in_time, read_ca};
use super::{Mark, Object, Requests, Storage, check_key, check_prefix, ends_early};
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};

mod error;

const KNOWN_GOOGLE: [&str; 4] = ["endpoint", "credentials", "ca", "allow_http"];
const KNOWN_AZURE: [&str; 5] = ["account", "endpoint", "credentials", "ca", "allow_http"];
/// The metadata that keeps an object's [`Mark`]. Azure takes no `-` in it.
const MARK: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("palinurus_put"));
const PAGE: usize = 1000;
/// Neither service deletes many objects with one request that all its emulators know.
const DELETES_AT_ONCE: usize = 8;

pub(super) struct CloudStorage {
    store: Box<dyn Both>,
    name: String,
    prefix: String,
    /// Azure's client lists no object whose name is the very prefix.
    omits: bool,
    entropy: Arc<dyn Entropy>,
    sent: Counts,
}

pub(super) trait Both: ObjectStore + PaginatedListStore {}
impl<T: ObjectStore + PaginatedListStore> Both for T {}

impl fmt::Debug for CloudStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl CloudStorage {
    /// Credentials: the service account's key file that the URL names, or what Google's own tools would take.
    pub(super) fn google(rest: &str, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let address = Address::parse("gs", rest, &KNOWN_GOOGLE)?;
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&address.container)
            .with_retry(never())
            .with_client_options(client(&address)?);
        if let Some(endpoint) = address.endpoint()? {
            builder = builder.with_base_url(endpoint);
        }
        match address.get("credentials") {
            Some("none") => builder = builder.with_skip_signature(true),
            Some(path) => {
                readable(path)?;
                builder = builder.with_service_account_path(path);
            }
            None => {}
        }
        let store = builder.build().map_err(|e| error::unfit("gs", &e))?;
        Ok(Self::new(Box::new(store), &address, entropy))
    }

    /// Credentials: the settings in the file that the URL names, or in the environment, or the machine's identity.
    pub(super) fn azure(rest: &str, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let address = Address::parse("az", rest, &KNOWN_AZURE)?;
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_container_name(&address.container)
            .with_retry(never())
            .with_client_options(client(&address)?);
        if let Some(account) = address.get("account") {
            builder = builder.with_account(account);
        }
        if let Some(endpoint) = address.endpoint()? {
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        if let Some(path) = address.get("credentials") {
            for (key, value) in settings(path)? {
                builder = builder.with_config(key, value);
            }
        }
        let store = builder.build().map_err(|e| error::unfit("az", &e))?;
        Ok(Self { omits: true, ..Self::new(Box::new(store), &address, entropy) })
    }

    fn new(store: Box<dyn Both>, address: &Address, entropy: Arc<dyn Entropy>) -> Self {
        let (name, prefix) = (address.name(), address.prefix.clone());
        Self { store, name, prefix, omits: false, entropy, sent: Counts::default() }
    }

    fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    fn call<'a>(&'a self, action: &'static str, key: &'a str) -> Call<'a> {
        Call { action, key, store: &self.name }
    }

    async fn put_once(&self, key: &str, body: Bytes, mark: Option<&Mark>) -> Result<()> {
        let call = self.call("write", key);
        let length = body.len() as u64;
        self.sent.puts.add(1);
        let mut options = PutOptions::default();
        if let Some(mark) = mark {
            options.mode = PutMode::Create;
            options.attributes = Attributes::from_iter([(MARK, mark.text().to_owned())]);
        }
        in_time(&call, length, async {
            match self.store.put_opts(&self.path(key), body.into(), options).await {
                Ok(_) => Ok(()),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Err(self.exists(key))
                }
                Err(e) => Err(error::translated(&call, &e)),
            }
        })
        .await?;
        self.sent.bytes_put.add(length);
        Ok(())
    }

    async fn delete_one(&self, key: &str) -> Result<()> {
        let call = self.call("delete", key);
        self.sent.deletes.add(1);
        self.sent.deleted.add(1);
        in_time(&call, 0, async {
            match self.store.delete(&self.path(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(error::translated(&call, &e)),
            }
        })
        .await
    }
}

/// All retrying is done above.
fn never() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn client(address: &Address) -> Result<ClientOptions> {
    // The one provider; that it is installed already is well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = address.endpoint()?.is_some_and(|endpoint| endpoint.starts_with("http:"));
    let mut options = ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled() // requests are bounded by what they move
        .with_pool_idle_timeout(IDLE)
        .with_allow_http(plain);
    if let Some(path) = address.get("ca") {
        let pem = read_ca(FilePath::new(path))?;
        let unfit = |e| Error::invalid(format!("{path} holds no certificate that fits")).with_source(e);
        options = options.with_no_system_certificates(true);
        for certificate in Certificate::from_pem_bundle(&pem).map_err(unfit)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn readable(path: &str) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::io(format!("cannot read the credentials file {path}"), e))
}

/// Lines `name=value`, by the names that the environment has too.
fn settings(path: &str) -> Result<Vec<(AzureConfigKey, String)>> {
    let mut found = Vec::new();
    for (line, number) in readable(path)?.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // What does not fit may be the secret itself.
        let parsed = line.split_once('=').and_then(|(name, value)| {
            Some((name.trim().to_ascii_lowercase().parse().ok()?, value.trim().to_owned()))
        });
        found.push(parsed.ok_or_else(|| {
            Error::invalid(format!("line {number} of the credentials file {path} is no setting")).with_hint(
                "write azure_storage_account_key=..., azure_storage_sas_key=... or azure_client_id=...",
            )
        })?);
    }
    Ok(found)
}

#[async_trait]
impl Remote for CloudStorage {
    async fn head(&self, key: &str) -> Result<(u64, Option<String>)> {
        let call = self.call("read", key);
        self.sent.sizes.add(1);
        let options = GetOptions { head: true, ..GetOptions::default() };
        in_time(&call, 0, async {
            let found = self
                .store
                .get_opts(&self.path(key), options)
                .await
                .map_err(|e| error::translated(&call, &e))?;
            Ok((found.meta.size, found.attributes.get(&MARK).map(|mark| mark.as_ref().to_owned())))
        })
        .await
    }

    async fn get_once(&self, key: &str, range: Option<&Range<u64>>) -> Result<Bytes> {
        let call = self.call("read", key);
        self.sent.gets.add(1);
        let options = GetOptions {
            range: range.map(|range| GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let found =
            in_time(&call, 0, async { Ok(self.store.get_opts(&self.path(key), options).await) }).await?;
        let found = match (found, range) {
            (Ok(found), _) => found,
            (Err(e), Some(range)) if !matches!(e, object_store::Error::NotFound { .. }) => {
                // A range that begins behind the end is an error of no kind of its own.
                return Err(match self.head(key).await {
                    Ok((size, _)) if size < range.end => ends_early(key, range, size),
                    _ => error::translated(&call, &e),
                });
            }
            (Err(e), _) => return Err(error::translated(&call, &e)),
        };
        let whole = 0..found.meta.size;
        let wanted = range.unwrap_or(&whole);
        if found.meta.size < wanted.end {
            return Err(ends_early(key, wanted, found.meta.size));
        }
        if found.range != *wanted {
            return Err(Error::unavailable(format!("{call}: another range came: {:?}", found.range)));
        }
        let body = collect(&call, wanted.end - wanted.start, found.into_stream()).await?;
        self.sent.bytes_got.add(body.len() as u64);
        Ok(body)
    }

    async fn create_once(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.put_once(key, body, Some(mark)).await
    }

    fn exists(&self, key: &str) -> Error {
        Error::conflict(format!("{key} exists already in {}", self.name))
    }
}

#[async_trait]
impl Storage for CloudStorage {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.put_marked(key, body, &Mark::draw(&*self.entropy)?).await
    }

    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.create(key, body, mark).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        self.put_once(key, body, None).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.read(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        check_key(key)?;
        Ok(self.head(key).await?.0)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let call = self.call("list", prefix);
        let names = format!("{}{prefix}", self.prefix);
        let after = after.map(|after| format!("{}{after}", self.prefix));
        let mut found: Vec<Object> = Vec::new();
        if self.omits
            && limit > 0
            && check_key(prefix).is_ok()
            && after.as_ref().is_none_or(|after| *after < names)
        {
            match self.head(prefix).await {
                Ok((size, _)) => found.push(Object { key: prefix.to_owned(), size }),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let mut token = None;
        while found.len() < limit {
            self.sent.lists.add(1);
            let options = PaginatedListOptions {
                offset: after.clone(),
                max_keys: Some((limit - found.len()).clamp(1, PAGE)),
                page_token: token.take(),
                ..PaginatedListOptions::default()
            };
            let page = in_time(&call, 0, async {
                let page = self.store.list_paginated(
                    Some(&names).filter(|names| !names.is_empty()).map(|x| x.as_str()),
                    options,
                );
                page.await.map_err(|e| error::translated(&call, &e))
            });
            let page = page.await?;
            for object in page.result.objects {
                let key =
                    object.location.as_ref().strip_prefix(&self.prefix).filter(|key| check_key(key).is_ok());
                // Not every store that speaks the language knows offsets.
                let Some(key) =
                    key.filter(|_| after.as_deref().is_none_or(|after| object.location.as_ref() > after))
                else {
                    continue;
                };
                found.push(Object { key: key.to_owned(), size: object.size });
            }
            token = page.page_token;
            if token.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let all: Vec<_> = keys.iter().map(|key| self.delete_one(key)).collect();
        stream::iter(all).buffer_unordered(DELETES_AT_ONCE).try_collect().await
    }

    fn sent(&self) -> Option<Requests> {
        Some(self.sent.requests())
    }
}
