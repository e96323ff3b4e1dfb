//! Whom TLS trusts, and the certificate by which it names us.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use kube::config::AuthInfo;
use secrecy::ExposeSecret;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tracing::warn;

use super::{CredentialsError, read};

/// What TLS needs: the certificate authority, which may be replaced, and our own certificate.
#[derive(Debug)]
pub(in super::super) struct Trust {
    authority: Authority,
    user: AuthInfo,
    last: Mutex<Settled>,
}

/// A configuration, and the authority for which it was made.
#[derive(Debug)]
struct Settled {
    authority: Vec<CertificateDer<'static>>,
    tls: Arc<ClientConfig>,
}

#[derive(Debug)]
enum Authority {
    /// What the kubeconfig holds.
    Given,
    /// Where a pod's service account has it.
    File(PathBuf),
}

impl Trust {
    pub(in super::super) fn of(config: &Config) -> Result<Self, CredentialsError> {
        let given = config.root_cert.iter().flatten();
        let certificates: Vec<_> = given.map(|der| CertificateDer::from(der.clone())).collect();
        let secured = config.cluster_url.scheme_str() == Some("https");
        if secured && (certificates.is_empty() || config.accept_invalid_certs) {
            return Err(CredentialsError::NoAuthority);
        }
        let user = config.auth_info.clone();
        let last = Mutex::new(Settled::new(certificates, &user)?);
        let authority = match &config.root_cert_file {
            Some(path) => Authority::File(path.clone()),
            None => Authority::Given,
        };
        Ok(Self {
            authority,
            user,
            last,
        })
    }

    /// What the next connection is made with.
    pub(in super::super) fn now(&self) -> Arc<ClientConfig> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Authority::File(path) = &self.authority {
            match self.renewed(path, &last.authority) {
                Ok(Some(renewed)) => *last = renewed,
                Ok(None) => {}
                Err(error) => {
                    warn!(%error, path = %path.display(), "the former certificate authority is used on");
                }
            }
        }
        last.tls.clone()
    }

    /// What the file says, if it says something new: a configuration that stays keeps its TLS
    /// sessions, by which handshakes are short.
    fn renewed(
        &self,
        path: &Path,
        known: &[CertificateDer<'static>],
    ) -> Result<Option<Settled>, CredentialsError> {
        let certificates = certificates(&read(path)?)?;
        if certificates.is_empty() || certificates == known {
            return Ok(None);
        }
        Settled::new(certificates, &self.user).map(Some)
    }
}

impl Settled {
    fn new(
        authority: Vec<CertificateDer<'static>>,
        user: &AuthInfo,
    ) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &authority {
            roots.add(certificate.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match identity(user)? {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => builder.with_client_auth_cert(certificates, key)?,
        };
        Ok(Self {
            authority,
            tls: Arc::new(tls),
        })
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(user: &AuthInfo) -> Result<Option<Identity>, CredentialsError> {
    let key = user.client_key_data.as_ref();
    let key = given(
        "client-key-data",
        key.map(ExposeSecret::expose_secret),
        user.client_key.as_deref(),
    )?;
    let certificate = given(
        "client-certificate-data",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((
            certificates(&certificate)?,
            PrivateKeyDer::from_pem_slice(&key)?,
        ))),
        _ => Err(CredentialsError::HalfIdentity),
    }
}

/// What a field holds in base64, or else the file that its neighbour names.
fn given(
    field: &'static str,
    data: Option<&str>,
    file: Option<&str>,
) -> Result<Option<Vec<u8>>, CredentialsError> {
    if let Some(data) = data {
        let decoded = STANDARD.decode(data);
        return decoded
            .map(Some)
            .map_err(|source| CredentialsError::Base64 { field, source });
    }
    file.map(|file| read(Path::new(file))).transpose()
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    Ok(CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests;
