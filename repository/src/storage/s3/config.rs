//! From a URL to a client: address, credentials, TLS.
use std::path::PathBuf;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};

use crate::error::{Error, Result};
use crate::storage::address::Address;
use crate::storage::remote::{CONNECT, IDLE, read_ca};

pub(super) const KNOWN: [&str; 8] =
    ["endpoint", "region", "path_style", "credentials", "profile", "ca", "allow_http", "checksum"];
/// Where no region counts, signatures still want one.
const ANY_REGION: &str = "us-east-1";

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) bucket: String,
    pub(super) prefix: String,
    pub(super) name: String,
    pub(super) checksum: Option<ChecksumAlgorithm>,
    /// TLS protects what is on the wire, so that payloads need not be hashed for it.
    pub(super) unsigned: bool,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: bool,
    credentials: Option<PathBuf>,
    profile: Option<String>,
    ca: Option<PathBuf>,
}

impl Settings {
    pub(super) fn parse(rest: &str) -> Result<Self> {
        let address = Address::parse("s3", rest, &KNOWN)?;
        let owned = |name: &str| address.get(name).map(str::to_owned);
        let endpoint = address.endpoint()?.map(str::to_owned);
        Ok(Self {
            bucket: address.container.clone(),
            prefix: address.prefix.clone(),
            name: address.name(),
            checksum: owned("checksum").map(|name| checksum(&name)).transpose()?,
            unsigned: endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https:")),
            region: owned("region"),
            // Buckets as host names need DNS of their own, which few stores but Amazon's have.
            path_style: address.flag("path_style")?.unwrap_or(endpoint.is_some()),
            endpoint,
            credentials: owned("credentials").map(PathBuf::from),
            profile: owned("profile"),
            ca: owned("ca").map(PathBuf::from),
        })
    }

    /// Reads all that may change while we run: files, the environment, the machine's role.
    pub(super) async fn connect(&self) -> Result<Client> {
        let http = self.http().await?;
        let region = match (self.region().await, &self.endpoint) {
            (Some(region), _) => region,
            (None, Some(_)) => Region::from_static(ANY_REGION),
            (None, None) => {
                return Err(Error::invalid(format!("{} names no region", self.name))
                    .with_hint("add region=... to the URL, or set AWS_REGION"));
            }
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.clone())
            .region(region.clone())
            .retry_config(RetryConfig::standard()) // for credentials; the store's own is below
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(provider) = self.credentials(&http, &region)? {
            loader = loader.credentials_provider(provider);
        }
        let mut config = aws_sdk_s3::config::Builder::from(&loader.load().await)
            .retry_config(RetryConfig::disabled())
            .force_path_style(self.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build());
        // Not from AWS_ENDPOINT_URL: the URL of a repository says where it is.
        config.set_endpoint_url(self.endpoint.clone());
        Ok(Client::from_conf(config.build()))
    }

    async fn http(&self) -> Result<SharedHttpClient> {
        let mut trust = TrustStore::default();
        if let Some(path) = self.ca.clone() {
            let pem = tokio::task::spawn_blocking(move || read_ca(&path))
                .await
                .map_err(|e| Error::internal("reading the CA was lost").with_source(e))??;
            trust = TrustStore::empty().with_pem_certificate(pem);
        }
        let context = TlsContext::builder().with_trust_store(trust).build();
        let context = context.map_err(|e| Error::invalid("the TLS settings do not fit").with_source(e))?;
        Ok(aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .tls_context(context)
            .pool_idle_timeout(IDLE)
            .build_https())
    }

    async fn region(&self) -> Option<Region> {
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &self.profile {
            profile = profile.profile_name(name);
        }
        RegionProviderChain::first_try(self.region.clone().map(Region::new))
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(profile.build())
            .region()
            .await
    }

    /// From the file that the URL names, before whatever the environment says.
    fn credentials(
        &self,
        http: &SharedHttpClient,
        region: &Region,
    ) -> Result<Option<SharedCredentialsProvider>> {
        let Some(path) = &self.credentials else { return Ok(None) };
        if let Err(e) = std::fs::metadata(path) {
            return Err(Error::io(format!("cannot read the credentials file {}", path.display()), e));
        }
        let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
        let context =
            ProviderConfig::default().with_http_client(http.clone()).with_region(Some(region.clone()));
        let mut provider = ProfileFileCredentialsProvider::builder().configure(&context).profile_files(files);
        if let Some(name) = &self.profile {
            provider = provider.profile_name(name);
        }
        Ok(Some(SharedCredentialsProvider::new(provider.build())))
    }
}

fn checksum(name: &str) -> Result<ChecksumAlgorithm> {
    match name {
        "crc32" => Ok(ChecksumAlgorithm::Crc32),
        "crc32c" => Ok(ChecksumAlgorithm::Crc32C),
        "sha256" => Ok(ChecksumAlgorithm::Sha256),
        _ => Err(Error::invalid("the checksum in a s3: URL is not known")
            .with_hint("checksum=crc32, crc32c or sha256; without it, none is sent")),
    }
}
