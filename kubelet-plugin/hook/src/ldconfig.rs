//! The host's `ldconfig`: which file it is, and whether it can run alone.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use thiserror::Error;

/// Where hosts have it.
pub(crate) const USUAL: [&str; 2] = ["/sbin/ldconfig", "/usr/sbin/ldconfig"];

/// Why a file cannot be used as `ldconfig`.
#[derive(Debug, Error)]
pub(crate) enum LdconfigError {
    #[error("open the host's ldconfig {path}; --ldconfig-path must name an existing program")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("read the host's ldconfig {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "use {path} as ldconfig: it is {what}, and runs where there is nothing but the container; \
         point --ldconfig-path at a statically linked ldconfig, such as glibc's"
    )]
    NotStatic { path: String, what: &'static str },
}

/// Opens the program: the given one, or the first where hosts have it. `None` if none was given
/// and the host has none.
///
/// A neighbour with `.real` in its name goes first: on Ubuntu the plain name is a shell script
/// around it.
pub(crate) fn open(given: Option<&str>) -> Result<Option<OwnedFd>, LdconfigError> {
    let candidates: Vec<&str> = given.map_or_else(|| USUAL.to_vec(), |path| vec![path]);
    for path in candidates {
        for path in [format!("{path}.real"), path.to_owned()] {
            match File::open(&path) {
                Ok(file) => return checked(path, file).map(Some),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LdconfigError::Open { path, source }),
            }
        }
    }
    match given {
        None => Ok(None),
        Some(path) => Err(LdconfigError::Open {
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        }),
    }
}

fn checked(path: String, file: File) -> Result<OwnedFd, LdconfigError> {
    match kind(&file) {
        Ok(Program::Static) => Ok(file.into()),
        Ok(Program::Dynamic) => Err(LdconfigError::NotStatic {
            path,
            what: "dynamically linked",
        }),
        Ok(Program::Script) => Err(LdconfigError::NotStatic {
            path,
            what: "a script",
        }),
        Ok(Program::Other) => Err(LdconfigError::NotStatic {
            path,
            what: "no 64-bit little-endian ELF program",
        }),
        Err(source) => Err(LdconfigError::Read { path, source }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Static,
    Dynamic,
    Script,
    Other,
}

/// Tells a program by its ELF header: one that needs a loader has a `PT_INTERP` segment. (elf(5))
fn kind(file: &File) -> io::Result<Program> {
    let mut header = [0_u8; 64];
    let mut read = 0;
    while read < header.len() {
        match file.read_at(&mut header[read..], read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    if header.starts_with(b"#!") {
        return Ok(Program::Script);
    }
    let is_elf = read == header.len() && header.starts_with(b"\x7fELF\x02\x01");
    if !is_elf {
        return Ok(Program::Other);
    }
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let table = u64::from_le_bytes(header[32..40].try_into().expect("eight bytes were taken"));
    let (size, count) = (u64::from(u16_at(54)), u64::from(u16_at(56)));
    for segment in 0..count {
        let mut kind = [0_u8; 4];
        file.read_exact_at(&mut kind, table.saturating_add(segment * size))?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(Program::Dynamic);
        }
    }
    Ok(Program::Static)
}

const PT_INTERP: u32 = 3;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_script_or_a_program_that_needs_a_loader_is_refused_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("ldconfig");
        fs::write(&script, "#!/bin/sh\nexec ldconfig.real\n").unwrap();
        let text = folder.path().join("text");
        fs::write(&text, "ldconfig").unwrap();
        let this_program = std::env::current_exe().unwrap();
        for (path, what) in [
            (&script, "a script"),
            (&text, "no 64-bit"),
            (&this_program, "dynamically linked"),
        ] {
            let error = open(path.to_str()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn the_program_behind_a_wrapper_is_preferred_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let wrapper = folder.path().join("ldconfig");
        fs::write(&wrapper, "#!/bin/sh\n").unwrap();
        fs::copy("/sbin/ldconfig", folder.path().join("ldconfig.real")).unwrap();
        assert!(open(wrapper.to_str()).unwrap().is_some());
    }

    #[test]
    fn a_given_program_that_does_not_exist_is_an_error() {
        let error = open(Some("/gone/ldconfig")).unwrap_err();
        assert!(error.to_string().contains("/gone/ldconfig"), "{error}");
    }
}
