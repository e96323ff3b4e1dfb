//! Who the API server is, and who we are to it: certificates and bearer tokens.
//!
//! kube's own layers do the same and more: they run programs that a kubeconfig names and search
//! answers by JSON path. No node has such programs, and the code for them is a twentieth of the plugin's size, so
//! a kubeconfig that asks for them is refused with the remedy.
//!
//! What comes from a file is looked at again while we run, because the kubelet renews a pod's token
//! about hourly and the cluster's certificate authority may be replaced. A file that has vanished or
//! is damaged changes nothing: what was read last counts until the server says otherwise, as in
//! client-go.

mod token;
mod trust;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kube::config::AuthInfo;
use thiserror::Error;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem;

pub(super) use self::token::Bearer;
pub(super) use self::trust::Trust;

/// What is wrong with certificates or credentials.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A way to authenticate that this client does not know.
    #[error(
        "the user's `{field}` is not supported: use `token`, `tokenFile`, or `client-certificate` \
         and `client-key`"
    )]
    OtherMethod {
        /// The field of the kubeconfig's user.
        field: &'static str,
    },
    /// Nothing says whom to trust.
    #[error(
        "the cluster has no `certificate-authority`: name the one that signed its certificate \
         (`insecure-skip-tls-verify` is not supported)"
    )]
    NoAuthority,
    /// Half of a client's certificate.
    #[error(
        "the user has a client certificate or a key, but not both: give `client-certificate` and `client-key`"
    )]
    HalfIdentity,
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A field that should hold base64.
    #[error("decode `{field}` of the user")]
    Base64 {
        /// The field of the kubeconfig's user.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: base64::DecodeError,
    },
    /// What should hold certificates or a key in PEM.
    #[error("decode PEM")]
    Pem(#[from] pem::Error),
    /// Certificates or a key that cannot be used.
    #[error("use the certificates")]
    Tls(#[from] rustls::Error),
    /// A token that cannot stand in a header.
    #[error("the token has characters that no token has")]
    Token,
    /// What else the kubeconfig says cannot be used.
    #[error(transparent)]
    Kube(#[from] Box<kube::Error>),
}

/// Refuses users that authenticate in a way which is not supported here.
pub(super) fn refuse_other_methods(user: &AuthInfo) -> Result<(), CredentialsError> {
    let others = [
        ("exec", user.exec.is_some()),
        ("auth-provider", user.auth_provider.is_some()),
        (
            "username",
            user.username.is_some() || user.password.is_some(),
        ),
    ];
    match others.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(CredentialsError::OtherMethod { field }),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    fs::read(path).map_err(|source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_needs_a_program_a_provider_or_a_password_is_refused_with_the_field() {
        let exec = serde_json::json!({"exec": {"command": "aws"}});
        let exec = serde_json::from_value(exec).unwrap();
        let password = AuthInfo {
            username: Some("admin".to_owned()),
            password: Some("sesame".to_owned().into()),
            ..AuthInfo::default()
        };
        for (user, field) in [(exec, "exec"), (password, "username")] {
            let error = refuse_other_methods(&user).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
            assert!(error.contains("tokenFile"), "{error}");
        }
        refuse_other_methods(&AuthInfo::default()).unwrap();
    }
}
