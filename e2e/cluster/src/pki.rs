//! The cluster's certificates: one authority that lives as long as the cluster, and what it signed; and certificates of
//! services in the cluster, each with an authority that has signed nothing else.
//!
//! Everything is P-256. Kubernetes takes such keys for service account tokens too.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Certificates could not be made.
#[derive(Debug, thiserror::Error)]
#[error("make the keys of {name}")]
pub struct PkiError {
    name: String,
    source: rcgen::Error,
}

impl PkiError {
    pub(crate) fn of(name: &str, source: rcgen::Error) -> Self {
        let name = name.to_owned();
        Self { name, source }
    }
}

/// What a service needs to serve over TLS, and its callers to trust it, in PEM.
#[derive(Debug, Clone)]
pub struct ServingCertificate {
    /// The certificate of the authority, by which callers know the service.
    pub authority_pem: String,
    /// The service's own certificate.
    pub certificate_pem: String,
    /// The key of the service's certificate.
    pub key_pem: String,
}

impl ServingCertificate {
    /// A certificate for the service that is called by this name.
    ///
    /// # Errors
    /// When `host` is no name that a certificate can bear.
    pub fn of(host: &str) -> Result<Self, PkiError> {
        let authority = Authority::new()?;
        let Identity {
            certificate_pem,
            key_pem,
        } = authority.sign(&Subject {
            user: host,
            group: None,
            serves_at: vec![host.to_owned()],
        })?;
        Ok(Self {
            authority_pem: authority.identity().certificate_pem,
            certificate_pem,
            key_pem,
        })
    }
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// Whom a certificate is for, in Kubernetes' terms: the common name is the user, the organisation the group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) user: &'a str,
    pub(crate) group: Option<&'a str>,
    /// Names and addresses under which it serves; addresses are recognised as such.
    pub(crate) serves_at: Vec<String>,
}

/// Signs for the cluster.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, PkiError> {
        let failed = |source| PkiError {
            name: "the authority".to_owned(),
            source,
        };
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "tessera-cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(failed)?;
        Ok(Self { issuer })
    }

    /// The authority itself. Its key signs certificate requests in the cluster.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            certificate_pem: self.issuer.pem(),
            key_pem: self.issuer.key().serialize_pem(),
        }
    }

    /// Signs a certificate that serves and that calls: every component here does both.
    pub(crate) fn sign(&self, subject: &Subject<'_>) -> Result<Identity, PkiError> {
        let failed = |source| PkiError {
            name: subject.user.to_owned(),
            source,
        };
        let mut params = CertificateParams::new(subject.serves_at.clone()).map_err(failed)?;
        params
            .distinguished_name
            .push(DnType::CommonName, subject.user);
        if let Some(group) = subject.group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// The pair with which service account tokens are signed and checked: private and public key, in PEM.
pub(crate) fn token_keys() -> Result<(String, String), PkiError> {
    let key = KeyPair::generate().map_err(|source| PkiError {
        name: "service accounts".to_owned(),
        source,
    })?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_has_a_key_of_its_own() {
        let authority = Authority::new().unwrap();
        let subject = Subject {
            user: "admin",
            group: Some("system:masters"),
            serves_at: vec![],
        };
        let (one, other) = (
            authority.sign(&subject).unwrap(),
            authority.sign(&subject).unwrap(),
        );
        assert_ne!(one.key_pem, other.key_pem);
        assert!(
            one.certificate_pem
                .starts_with("-----BEGIN CERTIFICATE-----")
        );
        // PKCS#8 is the one form that every reader in Kubernetes takes for an elliptic key.
        assert!(one.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn a_name_that_no_certificate_can_hold_is_refused_with_the_user() {
        let authority = Authority::new().unwrap();
        let subject = Subject {
            user: "node0",
            group: None,
            serves_at: vec!["nöde".to_owned()],
        };
        assert!(
            authority
                .sign(&subject)
                .unwrap_err()
                .to_string()
                .contains("node0")
        );
    }
}
