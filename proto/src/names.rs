//! How a driver's sockets are named.
//!
//! The kubelet dials the registration socket with its path as the HTTP/2 `:authority`, with every
//! byte percent-encoded that an authority cannot have. h2 takes a `%` only before an `@`, in what
//! it reads as user information, and resets the stream otherwise: an ordinary name is never
//! registered. With an `@` in its last component the directory and the driver's name become user
//! information and the rest is a plain host name.
//!
//! grpc-go's `encodeAuthority` leaves `@`, `:` and brackets as they are. The `http` crate's authority
//! parser forgets at an `@` which `%` it has seen, but not which brackets. The kubelet asks of a name
//! only that it does not begin with a dot (`pkg/kubelet/pluginmanager/pluginwatcher`).

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use thiserror::Error;

use crate::uds::{SocketPath, SocketPathError};

/// What follows the `@` in the names that we give.
const HOST: &str = "reg.sock";

/// The same for the socket that the kubelet calls.
const DRA_HOST: &str = "v1.sock";

/// How much of a pod's UID is in a name where all of it would make the path too long for a socket.
/// It has to tell apart the few pods of one driver that are on one node at one time.
const SHORT_UID: usize = 8;

/// A socket name that the kubelet could not register, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not exactly one `@` between plain words.
    #[error(
        "registration socket name {0:?} is not two words of A-Z a-z 0-9 . _ - with one '@' between \
         them and no leading '.', so the kubelet cannot register it"
    )]
    Socket(String),
    /// The directory would put a second `@`, a bracket or a colon into the authority.
    #[error("registration directory {0:?} has one of @ : [ ]; use another kubelet --root-dir")]
    Directory(String),
    /// Not a driver name.
    #[error("driver name {0:?} is not a DNS subdomain of at most 63 of a-z 0-9 . -")]
    Driver(String),
    /// Not a UID.
    #[error("pod UID {0:?} is not one or more of A-Z a-z 0-9 -")]
    PodUid(String),
    /// The path as a whole.
    #[error(transparent)]
    Path(#[from] SocketPathError),
}

/// The file name of a registration socket: two plain words with an `@` between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistrationSocketName(String);

impl RegistrationSocketName {
    /// The name for the only instance of a driver, `<driver>@reg.sock`, or for one of several in a
    /// rolling update, `<driver>-<pod UID>@reg.sock`.
    pub fn new(driver: &str, pod_uid: Option<&str>) -> Result<Self, NameError> {
        check_driver(driver)?;
        match pod_uid {
            None => format!("{driver}@{HOST}"),
            Some(uid) => {
                check_pod_uid(uid)?;
                format!("{driver}-{uid}@{HOST}")
            }
        }
        .parse()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegistrationSocketName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let word = |word: &str| !word.is_empty() && word.bytes().all(plain);
        let valid = !text.starts_with('.')
            && text
                .split_once('@')
                .is_some_and(|(before, host)| word(before) && word(host));
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| NameError::Socket(text.to_owned()))
    }
}

impl fmt::Display for RegistrationSocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a registration socket is bound: a path that the kubelet can register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistrationSocketPath(SocketPath);

impl RegistrationSocketPath {
    /// Puts a name into the kubelet's registration directory.
    pub fn new(directory: &Path, name: &RegistrationSocketName) -> Result<Self, NameError> {
        let path = SocketPath::new(&directory.join(name.as_str()))?;
        let directory = directory.to_string_lossy();
        if directory.contains(['@', ':', '[', ']']) {
            return Err(NameError::Directory(directory.into_owned()));
        }
        Ok(Self(path))
    }

    /// The path.
    pub fn as_socket_path(&self) -> &SocketPath {
        &self.0
    }
}

/// Both sockets of one instance of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPaths {
    /// The socket behind which the DRA and health services are. The kubelet must see it at the same
    /// path as this process.
    pub dra: SocketPath,
    /// The socket by which the kubelet finds the driver.
    pub registration: RegistrationSocketPath,
}

impl SocketPaths {
    /// The paths for a driver below the kubelet's registration and plugin directories (usually
    /// `/var/lib/kubelet/plugins_registry` and `/var/lib/kubelet/plugins`).
    ///
    /// Give the pod UID where two instances may run at once, in a rolling update with surge
    /// (kubelet 1.33 and later); without it the names are fixed. A path that the whole UID makes too
    /// long for a socket has the first characters of it.
    pub fn new(
        registrar: &Path,
        plugins: &Path,
        driver: &str,
        pod_uid: Option<&str>,
    ) -> Result<Self, NameError> {
        let registration = |uid: Option<&str>| {
            let name = RegistrationSocketName::new(driver, uid)?;
            RegistrationSocketPath::new(registrar, &name)
        };
        let dra = |uid: Option<&str>| {
            let path = plugins.join(driver).join(dra_name(uid));
            Ok(SocketPath::new(&path)?)
        };
        Ok(Self {
            registration: fitting(pod_uid, registration)?,
            dra: fitting(pod_uid, dra)?,
        })
    }
}

// The `@` is for kubelets before 1.34, whose dial sends the path of this socket as the authority too.
fn dra_name(pod_uid: Option<&str>) -> String {
    match pod_uid {
        None => format!("dra@{DRA_HOST}"),
        Some(uid) => format!("dra-{uid}@{DRA_HOST}"),
    }
}

/// The path with the whole UID, or with its beginning where that would be too long.
fn fitting<T>(
    pod_uid: Option<&str>,
    path: impl Fn(Option<&str>) -> Result<T, NameError>,
) -> Result<T, NameError> {
    match (path(pod_uid), pod_uid.and_then(|uid| uid.get(..SHORT_UID))) {
        (Err(NameError::Path(SocketPathError::TooLong { .. })), Some(short)) => path(Some(short)),
        (outcome, _) => outcome,
    }
}

/// Whether a file of this name can be the registration socket of an instance of the driver.
pub(crate) fn is_registration_socket(driver: &str, name: &str) -> bool {
    is_instance(name, driver, HOST)
}

/// Whether a file of this name can be the DRA socket of an instance of a driver.
pub(crate) fn is_dra_socket(name: &str) -> bool {
    is_instance(name, "dra", DRA_HOST)
}

fn is_instance(name: &str, before: &str, host: &str) -> bool {
    let rest = name.strip_prefix(before);
    let middle = rest.and_then(|rest| rest.strip_suffix(host)?.strip_suffix('@'));
    middle.is_some_and(|middle| match middle.strip_prefix('-') {
        Some(uid) => check_pod_uid(uid).is_ok(),
        None => middle.is_empty(),
    })
}

fn check_driver(driver: &str) -> Result<(), NameError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| inner(*b) || *b == b'-')
            && bytes.first().is_some_and(|b| inner(*b))
            && bytes.last().is_some_and(|b| inner(*b))
    };
    (driver.len() <= 63 && driver.split('.').all(label))
        .then_some(())
        .ok_or_else(|| NameError::Driver(driver.to_owned()))
}

fn check_pod_uid(uid: &str) -> Result<(), NameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (!uid.is_empty() && uid.bytes().all(plain))
        .then_some(())
        .ok_or_else(|| NameError::PodUid(uid.to_owned()))
}

#[cfg(test)]
mod tests;
