//! The command line.
//!
//! A few commands with a few flags do not pay for an argument parser: the usual one would double the
//! program. Flags of the first two are spelled as NVIDIA's `nvidia-cdi-hook` spells them, so that a spec works
//! with either program at its hook's path.

use std::ffi::OsString;

use thiserror::Error;

use crate::limit::Limit;

pub(crate) const HELP: &str = "\
Readies a container for GPUs. Run by container runtimes as an OCI hook (limit-memory as createRuntime,
the others as createContainer), with the state of the container on standard input.

Usage: tessera-cdi-hook create-symlinks --link TARGET::LINK...
       tessera-cdi-hook update-ldcache --folder FOLDER... [--ldconfig-path PROGRAM]
       tessera-cdi-hook limit-memory --socket SOCKET --share SHARE --gpu UUID --bytes NUMBER

create-symlinks  Makes symbolic links in the container.
  --link TARGET::LINK      LINK, an absolute path, gets the text TARGET
update-ldcache   Tells the container's loader about folders with libraries.
  --folder FOLDER          a folder in the container, an absolute path
  --ldconfig-path PROGRAM  the host's statically linked ldconfig; where PROGRAM.real exists, that
                           one [default: /sbin/ldconfig or /usr/sbin/ldconfig]
limit-memory     Has the container held to its share of a GPU's memory.
  --socket SOCKET          where the Tessera kubelet plugin of the node takes such wishes
  --share SHARE            the share, by the name of its CDI device
  --gpu UUID               the GPU
  --bytes NUMBER           the most memory that the container may have of it

Exit status: 0  done, or nothing to do; what a read-only root or a host without ldconfig costs is a
                warning on standard error
             1  a step failed, and the container must not start: one line on standard error names
                the step and the path
             2  the arguments are not understood
";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    CreateSymlinks(Vec<Link>),
    UpdateLdcache {
        folders: Vec<String>,
        ldconfig: Option<String>,
    },
    LimitMemory(Limit),
}

/// A link to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) target: String,
    /// Absolute, without `.` and `..`.
    pub(crate) path: String,
}

impl Command {
    /// The command as it is called.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::CreateSymlinks(_) => "create-symlinks",
            Self::UpdateLdcache { .. } => "update-ldcache",
            Self::LimitMemory(_) => "limit-memory",
        }
    }
}

/// Arguments that are not understood.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum ArgsError {
    #[error("no command is given")]
    NoCommand,
    #[error("{0:?} is not a command")]
    Command(String),
    #[error("{0:?} is not a flag of this command")]
    Flag(String),
    #[error("{0} wants a value")]
    NoValue(String),
    #[error("--link {0:?} is not of the form TARGET::LINK")]
    Link(String),
    #[error("{0:?} is not an absolute path, or has a . or .. in it")]
    Path(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("--bytes {0:?} is no number of bytes")]
    Bytes(String),
    #[error("{0:?} is not UTF-8")]
    Text(OsString),
}

/// Understands the arguments, without the program's name.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, ArgsError> {
    let args: Result<Vec<String>, OsString> = args.map(OsString::into_string).collect();
    let args = args.map_err(ArgsError::Text)?;
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return Ok(Command::Help);
    }
    let (command, rest) = args.split_first().ok_or(ArgsError::NoCommand)?;
    let flags = flags(rest)?;
    match command.as_str() {
        "create-symlinks" => create_symlinks(flags),
        "update-ldcache" => update_ldcache(flags),
        "limit-memory" => limit_memory(flags),
        other => Err(ArgsError::Command(other.to_owned())),
    }
}

/// Pairs of a flag and its value, written `--flag value` or `--flag=value`.
fn flags(args: &[String]) -> Result<Vec<(&str, &str)>, ArgsError> {
    let mut args = args.iter();
    let mut pairs = Vec::new();
    while let Some(arg) = args.next() {
        let pair = match arg.split_once('=') {
            Some(pair) if arg.starts_with("--") => pair,
            _ => match args.next() {
                Some(value) => (arg.as_str(), value.as_str()),
                None => return Err(ArgsError::NoValue(arg.clone())),
            },
        };
        pairs.push(pair);
    }
    Ok(pairs)
}

fn create_symlinks(flags: Vec<(&str, &str)>) -> Result<Command, ArgsError> {
    let link = |(flag, value): (&str, &str)| match flag {
        "--link" => link(value),
        _ => Err(ArgsError::Flag(flag.to_owned())),
    };
    let links: Result<Vec<Link>, ArgsError> = flags.into_iter().map(link).collect();
    Ok(Command::CreateSymlinks(links?))
}

fn link(value: &str) -> Result<Link, ArgsError> {
    match value.split_once("::") {
        Some((target, path)) if !target.is_empty() => Ok(Link {
            target: target.to_owned(),
            path: absolute(path)?,
        }),
        _ => Err(ArgsError::Link(value.to_owned())),
    }
}

fn update_ldcache(flags: Vec<(&str, &str)>) -> Result<Command, ArgsError> {
    let (mut folders, mut ldconfig) = (Vec::new(), None);
    for (flag, value) in flags {
        match flag {
            "--folder" => folders.push(absolute(value)?),
            "--ldconfig-path" => ldconfig = Some(absolute(value)?),
            _ => return Err(ArgsError::Flag(flag.to_owned())),
        }
    }
    Ok(Command::UpdateLdcache { folders, ldconfig })
}

fn limit_memory(flags: Vec<(&str, &str)>) -> Result<Command, ArgsError> {
    const NAMES: [&str; 4] = ["--socket", "--share", "--gpu", "--bytes"];
    let mut values = [None; NAMES.len()];
    for (flag, value) in flags {
        let known = NAMES.iter().position(|name| *name == flag);
        let at = known.ok_or_else(|| ArgsError::Flag(flag.to_owned()))?;
        if values[at].replace(value).is_some() {
            return Err(ArgsError::Twice(NAMES[at]));
        }
    }
    let given = |at: usize| values[at].ok_or(ArgsError::Missing(NAMES[at]));
    let bytes = given(3)?;
    Ok(Command::LimitMemory(Limit {
        socket: absolute(given(0)?)?,
        share: given(1)?.to_owned(),
        gpu: given(2)?.to_owned(),
        bytes: bytes
            .parse()
            .map_err(|_| ArgsError::Bytes(bytes.to_owned()))?,
    }))
}

/// A path that names something below a root. No line break: paths become lines of a file.
fn absolute(path: &str) -> Result<String, ArgsError> {
    let below = path.strip_prefix('/');
    let plain = |part: &str| part != "." && part != ".." && !part.contains('\n');
    below
        .filter(|below| below.split('/').all(plain))
        .map(|_| path.to_owned())
        .ok_or_else(|| ArgsError::Path(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, ArgsError> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn a_spec_s_arguments_are_understood_in_both_spellings() {
        let link = |target: &str, path: &str| Link {
            target: target.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(
            parsed(&[
                "create-symlinks",
                "--link",
                "libcuda.so.1::/usr/lib64/libcuda.so",
                "--link=/a::/b",
            ]),
            Ok(Command::CreateSymlinks(vec![
                link("libcuda.so.1", "/usr/lib64/libcuda.so"),
                link("/a", "/b"),
            ]))
        );
        assert_eq!(
            parsed(&["update-ldcache", "--folder=/a", "--folder", "/b"]),
            Ok(Command::UpdateLdcache {
                folders: vec!["/a".to_owned(), "/b".to_owned()],
                ldconfig: None,
            })
        );
    }

    #[test]
    fn a_limit_has_all_of_its_flags_once() {
        let all = [
            "limit-memory",
            "--socket=/run/memory.sock",
            "--share=a-gpu-0_s-1",
            "--gpu=GPU-0",
            "--bytes=5368709120",
        ];
        assert_eq!(
            parsed(&all),
            Ok(Command::LimitMemory(Limit {
                socket: "/run/memory.sock".to_owned(),
                share: "a-gpu-0_s-1".to_owned(),
                gpu: "GPU-0".to_owned(),
                bytes: 5 << 30,
            }))
        );
        for missing in 1..all.len() {
            let mut rest = all.to_vec();
            rest.remove(missing);
            assert!(matches!(parsed(&rest), Err(ArgsError::Missing(_))));
        }
        for more in ["--bytes=1", "--bytes=-1", "--folder=/a"] {
            assert!(parsed(&[&all[..], &[more]].concat()).is_err(), "{more}");
        }
        let mut odd = all;
        odd[4] = "--bytes=5Gi";
        assert_eq!(parsed(&odd), Err(ArgsError::Bytes("5Gi".to_owned())));
    }

    #[test]
    fn help_is_given_wherever_it_is_asked_for() {
        for args in [&["--help"][..], &["-h"], &["update-ldcache", "--help"]] {
            assert_eq!(parsed(args), Ok(Command::Help));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for args in [
            &[][..],
            &["chmod"],
            &["create-symlinks", "--folder", "/a"],
            &["create-symlinks", "--link"],
            &["create-symlinks", "--link", "/a"],
            &["create-symlinks", "--link", "::/a"],
            &["create-symlinks", "--link", "a::b"],
            &["create-symlinks", "--link", "a::/b/../c"],
            &["update-ldcache", "--folder", "usr/lib"],
            &["update-ldcache", "--folder", "/usr/./lib"],
            &["update-ldcache", "--folder", "/usr/lib\n/etc"],
            &["update-ldcache", "/usr/lib"],
        ] {
            assert!(parsed(args).is_err(), "{args:?}");
        }
    }
}
