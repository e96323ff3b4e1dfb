//! Key pairs for ssh.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

use crate::pki::PkiError;

/// The names of P-256 in the protocol (RFC 5656).
const ALGORITHM: &str = "ecdsa-sha2-nistp256";
const CURVE: &str = "nistp256";

/// A key pair on P-256.
#[derive(Debug, Clone)]
pub struct SshKeys {
    /// The private key as PEM of type `PRIVATE KEY` (PKCS #8), which OpenSSH takes.
    pub private_pem: String,
    /// The public key as a line of `authorized_keys`.
    pub public_line: String,
}

impl SshKeys {
    /// A fresh pair.
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(|source| PkiError::of("ssh", source))?;
        Ok(Self {
            private_pem: key.serialize_pem(),
            public_line: line(key.public_key_raw()),
        })
    }
}

/// The public key with this point, uncompressed.
fn line(point: &[u8]) -> String {
    let mut blob = Vec::new();
    for part in [ALGORITHM.as_bytes(), CURVE.as_bytes(), point] {
        let length = u32::try_from(part.len()).expect("a point of P-256 has 65 bytes");
        blob.extend(length.to_be_bytes());
        blob.extend(part);
    }
    format!("{ALGORITHM} {}", STANDARD.encode(blob))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_is_written_as_the_protocol_has_it() {
        let keys = SshKeys::generate().unwrap();
        assert!(keys.private_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        let encoded = keys.public_line.strip_prefix("ecdsa-sha2-nistp256 ");
        let blob = STANDARD.decode(encoded.unwrap()).unwrap();
        // Three strings with their lengths; the point begins with 4 and has two coordinates of 32 bytes.
        assert_eq!(blob.len(), (4 + 19) + (4 + 8) + (4 + 65));
        assert_eq!(blob[4 + 19 + 4 + 8 + 4], 4);
    }
}
