//! What requests show of us.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, Request};
use kube::config::AuthInfo;
use secrecy::ExposeSecret as _;
use tracing::warn;

use super::{CredentialsError, read};

/// How long a token from a file counts before the file is read again: what client-go uses.
const TOKEN_FOR: Duration = Duration::from_mins(1);

/// The bearer token, if there is one.
#[derive(Clone, Debug)]
pub(in super::super) enum Bearer {
    /// No token: the server knows us by our certificate, or not at all.
    Nothing,
    /// A token that does not change.
    Fixed(HeaderValue),
    /// A token that is read again from time to time.
    File(Arc<TokenFile>),
}

#[derive(Debug)]
pub(in super::super) struct TokenFile {
    path: PathBuf,
    last: Mutex<(HeaderValue, Instant)>,
}

impl Bearer {
    pub(in super::super) fn of(user: &AuthInfo) -> Result<Self, CredentialsError> {
        if let Some(token) = &user.token {
            return Ok(Self::Fixed(bearer(token.expose_secret())?));
        }
        let Some(path) = &user.token_file else {
            return Ok(Self::Nothing);
        };
        let path = PathBuf::from(path);
        let last = Mutex::new((read_token(&path)?, Instant::now()));
        Ok(Self::File(Arc::new(TokenFile { path, last })))
    }

    /// Puts the token into a request.
    pub(in super::super) fn sign<B>(&self, mut request: Request<B>) -> Request<B> {
        let token = match self {
            Self::Nothing => return request,
            Self::Fixed(token) => token.clone(),
            Self::File(file) => file.token(Instant::now()),
        };
        request.headers_mut().insert(AUTHORIZATION, token);
        request
    }
}

impl TokenFile {
    fn token(&self, now: Instant) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(last.1) >= TOKEN_FOR {
            match read_token(&self.path) {
                Ok(token) => last.0 = token,
                Err(error) => {
                    warn!(%error, path = %self.path.display(), "the former token is used on");
                }
            }
            last.1 = now;
        }
        last.0.clone()
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, CredentialsError> {
    let token = read(path)?;
    bearer(std::str::from_utf8(&token).map_err(|_| CredentialsError::Token)?)
}

fn bearer(token: &str) -> Result<HeaderValue, CredentialsError> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| CredentialsError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::NamedTempFile;

    use super::*;

    #[test]
    fn a_token_from_a_file_is_read_again_after_a_minute_and_outlives_its_file() {
        let renewed = NamedTempFile::new().unwrap();
        fs::write(renewed.path(), "first\n").unwrap();
        let user = AuthInfo {
            token_file: Some(renewed.path().display().to_string()),
            ..AuthInfo::default()
        };
        let Bearer::File(token) = Bearer::of(&user).unwrap() else {
            panic!("a file's token is read again");
        };
        let start = Instant::now();
        fs::write(renewed.path(), "second\n").unwrap();
        assert_eq!(token.token(start), "Bearer first");
        assert_eq!(token.token(start + TOKEN_FOR * 2), "Bearer second");
        renewed.close().unwrap();
        let value = token.token(start + TOKEN_FOR * 4);
        assert_eq!(value, "Bearer second");
        assert!(value.is_sensitive(), "logs must not show it");
    }

    #[test]
    fn a_users_own_token_goes_before_the_one_of_a_file() {
        let user = AuthInfo {
            token: Some("own".to_owned().into()),
            token_file: Some("/nowhere".to_owned()),
            ..AuthInfo::default()
        };
        let signed = Bearer::of(&user).unwrap().sign(Request::new(()));
        assert_eq!(signed.headers()[AUTHORIZATION], "Bearer own");
        let unsigned = Bearer::of(&AuthInfo::default())
            .unwrap()
            .sign(Request::new(()));
        assert!(unsigned.headers().is_empty());
    }

    #[test]
    fn a_token_that_is_missing_or_no_token_is_refused() {
        let missing = AuthInfo {
            token_file: Some("/nowhere/token".to_owned()),
            ..AuthInfo::default()
        };
        let error = Bearer::of(&missing).unwrap_err().to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
        let damaged = AuthInfo {
            token: Some("one\ntwo".to_owned().into()),
            ..AuthInfo::default()
        };
        assert!(matches!(Bearer::of(&damaged), Err(CredentialsError::Token)));
    }
}
