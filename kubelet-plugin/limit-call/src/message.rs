//! What is said.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// More than any line has: a path has at most 4096 bytes, and the rest is short.
pub const LONGEST: usize = 16 << 10;

/// The longest name of a share: names of CDI devices are not longer here than names of objects.
const LONGEST_NAME: usize = 253;

/// A container that is to be held to a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The share: the name of its CDI device, by which the node knows it again.
    pub share: String,
    /// UUID of the GPU.
    pub gpu: String,
    /// The most memory that the container may have for this share.
    pub bytes: u64,
    /// The container's cgroup, below the root of the hierarchy: `/kubepods.slice/…`.
    pub cgroup: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The driver holds the container to it.
    Held,
    /// It does not, and this is why.
    Refused(String),
}

/// A request that is none.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Not such a line.
    #[error("understand the request")]
    Json(#[from] serde_json::Error),
    /// No name of a share.
    #[error(
        "the share {0:?} is not named by up to {LONGEST_NAME} letters, digits, '-', '_' and '.'"
    )]
    Share(String),
    /// No place of a cgroup.
    #[error("the cgroup {0:?} is not an absolute path, or is the root, or has a . or .. in it")]
    Cgroup(String),
    /// No limit.
    #[error("a limit of 0 bytes lets no program use the GPU")]
    Nothing,
}

impl Request {
    /// Understands a line. What comes out of it names a file and a directory below those that they belong to.
    pub fn parse(line: &str) -> Result<Self, RequestError> {
        let request: Self = serde_json::from_str(line)?;
        request.check()?;
        Ok(request)
    }

    /// Fails if it is not what it must be.
    pub fn check(&self) -> Result<(), RequestError> {
        let Self {
            share,
            cgroup,
            bytes,
            ..
        } = self;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let length = 1..=LONGEST_NAME;
        if !share.bytes().all(is_name) || !length.contains(&share.len()) || share.starts_with('.') {
            return Err(RequestError::Share(share.clone()));
        }
        let below = cgroup.strip_prefix('/');
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let is_path = below.is_some_and(|below| below.split('/').all(is_plain));
        if !is_path || cgroup.contains('\0') {
            return Err(RequestError::Cgroup(cgroup.clone()));
        }
        if *bytes == 0 {
            return Err(RequestError::Nothing);
        }
        Ok(())
    }

    /// As a line.
    pub fn line(&self) -> String {
        line(self)
    }
}

impl Answer {
    /// As a line.
    pub fn line(&self) -> String {
        line(self)
    }
}

fn line(message: &impl Serialize) -> String {
    let mut line = serde_json::to_string(message)
        .expect("a message is texts and numbers under names, which JSON can always hold");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            share: "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001-gpu-3_s-1".to_owned(),
            gpu: "GPU-00000003-0000-0000-0000-000000000000".to_owned(),
            bytes: 5 << 30,
            cgroup: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-a.scope".to_owned(),
        }
    }

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        assert_eq!(Request::parse(&request().line()).unwrap(), request());
    }

    #[test]
    fn what_would_name_anything_else_is_refused() {
        for share in ["", "..", ".hidden", "a/b", "a b", &"a".repeat(254)] {
            let share = share.to_owned();
            let request = Request { share, ..request() };
            let refused = Request::parse(&request.line());
            assert!(
                matches!(refused, Err(RequestError::Share(_))),
                "{request:?}"
            );
        }
        for cgroup in ["", "/", "kubepods", "/a/../b", "/a//b", "/a/", "/a\0b"] {
            let cgroup = cgroup.to_owned();
            let request = Request {
                cgroup,
                ..request()
            };
            let refused = Request::parse(&request.line());
            assert!(
                matches!(refused, Err(RequestError::Cgroup(_))),
                "{request:?}"
            );
        }
        let nothing = Request {
            bytes: 0,
            ..request()
        };
        assert!(matches!(nothing.check(), Err(RequestError::Nothing)));
        for line in ["", "{}", "[]", r#"{"share":"a"}"#] {
            assert!(matches!(Request::parse(line), Err(RequestError::Json(_))));
        }
    }
}
