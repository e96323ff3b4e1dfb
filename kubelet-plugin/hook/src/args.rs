//! The command line.
//!
//! Two commands with three flags do not pay for an argument parser: the usual one would double the
//! program. Flags are spelled as NVIDIA's `nvidia-cdi-hook` spells them, so that a spec works with
//! either program at its hook's path.

use std::ffi::OsString;

use thiserror::Error;

pub(crate) const HELP: &str = "\
Readies a container's file system for GPUs. Run by container runtimes as an OCI createContainer
hook, with the state of the container on standard input.

Usage: tessera-cdi-hook create-symlinks --link TARGET::LINK...
       tessera-cdi-hook update-ldcache --folder FOLDER... [--ldconfig-path PROGRAM]

create-symlinks  Makes symbolic links in the container.
  --link TARGET::LINK      LINK, an absolute path, gets the text TARGET
update-ldcache   Tells the container's loader about folders with libraries.
  --folder FOLDER          a folder in the container, an absolute path
  --ldconfig-path PROGRAM  the host's statically linked ldconfig; where PROGRAM.real exists, that
                           one [default: /sbin/ldconfig or /usr/sbin/ldconfig]

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
