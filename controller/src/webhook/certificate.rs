//! The certificate of the webhook, which somebody else renews in its files.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use thiserror::Error;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tracing::{info, warn};

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be looked at.
    #[error("look at {}: mount the secret with the certificate there", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM with what belongs there.
    #[error("read {} as PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key are not of one another, or of an unknown kind.
    #[error("use the certificate of {} with its key", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What TLS says.
        #[source]
        source: tokio_rustls::rustls::Error,
    },
}

/// The newest certificate that could be read.
pub(super) struct Renewed {
    certificate: PathBuf,
    key: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    /// Times at which the files of `pair` were written, certificate and key.
    written: (SystemTime, SystemTime),
    pair: Arc<CertifiedKey>,
}

impl Renewed {
    /// Reads the files for the first time.
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            held: Mutex::new(Held::read(certificate, key, stamps(certificate, key)?)?),
        })
    }

    /// What the files hold, if they were written at other times than `known`.
    fn newer_than(
        &self,
        known: (SystemTime, SystemTime),
    ) -> Result<Option<Held>, CertificateError> {
        let found = stamps(&self.certificate, &self.key)?;
        if found == known {
            return Ok(None);
        }
        Held::read(&self.certificate, &self.key, found).map(Some)
    }

    /// The pair of now: read again if a file was written since.
    ///
    /// Looked at with each connection, of which an API server keeps few: nobody needs to watch, and
    /// a certificate in use is never older than its files.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match self.newer_than(held.written) {
            Ok(None) => {}
            Ok(Some(newer)) => {
                info!("serves the renewed certificate");
                *held = newer;
            }
            Err(error) => warn!(
                error = %tessera_shell::logging::chain(&error),
                "cannot use the renewed certificate; the former stays in use"
            ),
        }
        Arc::clone(&held.pair)
    }
}

impl Held {
    /// Reads the pair after its times were taken, so that a later change of the files shows.
    fn read(
        certificate: &Path,
        key: &Path,
        written: (SystemTime, SystemTime),
    ) -> Result<Self, CertificateError> {
        let pair = Arc::new(read(certificate, key)?);
        Ok(Self { written, pair })
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate of {}", self.certificate.display())
    }
}

fn stamps(certificate: &Path, key: &Path) -> Result<(SystemTime, SystemTime), CertificateError> {
    Ok((written(certificate)?, written(key)?))
}

fn written(path: &Path) -> Result<SystemTime, CertificateError> {
    let times = fs::metadata(path).and_then(|metadata| metadata.modified());
    times.map_err(|source| CertificateError::File {
        path: path.to_owned(),
        source,
    })
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(wrong(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(wrong(key))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|source| {
        CertificateError::Pair {
            path: certificate.to_owned(),
            source,
        }
    })
}
