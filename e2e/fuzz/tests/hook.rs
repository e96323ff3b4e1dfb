//! Fuzz targets: what the CDI hook is told by its arguments and on standard input.
//!
//! They have the hook's own source files, because a program has no library.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

#[path = "../../../kubelet-plugin/hook/src/args.rs"]
#[allow(dead_code, reason = "what only the program itself uses")]
mod args;
#[path = "../../../kubelet-plugin/hook/src/state.rs"]
mod state;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use bolero::TypeGenerator;
use tessera_fuzz::fuzz;

use crate::args::Command;
use crate::state::container_root;

/// Words that get past the first look, and any bytes.
#[derive(Clone, Debug, TypeGenerator)]
enum Word {
    CreateSymlinks,
    UpdateLdcache,
    LimitMemory,
    Flag(u8),
    Pair(u8, String),
    Link(String, String),
    Path(String),
    Any(Vec<u8>),
}

impl Word {
    fn text(&self) -> OsString {
        const FLAGS: [&str; 8] = [
            "--link",
            "--folder",
            "--ldconfig-path",
            "--help",
            "--socket",
            "--share",
            "--gpu",
            "--bytes",
        ];
        let flag = |at: u8| FLAGS[usize::from(at) % FLAGS.len()];
        match self {
            Self::CreateSymlinks => "create-symlinks".into(),
            Self::UpdateLdcache => "update-ldcache".into(),
            Self::LimitMemory => "limit-memory".into(),
            Self::Flag(at) => flag(*at).into(),
            Self::Pair(at, value) => format!("{}={value}", flag(*at)).into(),
            Self::Link(target, path) => format!("{target}::/{path}").into(),
            Self::Path(path) => format!("/{path}").into(),
            Self::Any(bytes) => OsString::from_vec(bytes.clone()),
        }
    }
}

/// What the parser promises of a path, said in another way than the parser does.
fn stays_below(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("")
        && parts.all(|part| part != "." && part != "..")
        && !path.contains('\n')
}

#[test]
fn arguments_that_are_understood_name_only_paths_below_the_root() {
    fuzz!(10_000, (u8, Vec<Word>), |(command, words)| {
        let command = match command % 3 {
            0 => Word::CreateSymlinks,
            1 => Word::UpdateLdcache,
            _ => Word::LimitMemory,
        };
        let with_command = [&[command], words.as_slice()].concat();
        for words in [words, &with_command] {
            match args::parse(words.iter().map(Word::text)) {
                Ok(Command::CreateSymlinks(links)) => {
                    assert!(links.iter().all(|link| stays_below(&link.path)));
                    assert!(links.iter().all(|link| !link.target.is_empty()));
                }
                Ok(Command::UpdateLdcache { folders, ldconfig }) => {
                    assert!(
                        folders
                            .iter()
                            .chain(&ldconfig)
                            .all(|path| stays_below(path))
                    );
                }
                Ok(Command::LimitMemory(limit)) => assert!(stays_below(&limit.socket)),
                Ok(Command::Help) | Err(_) => {}
            }
        }
    });
}

#[test]
fn a_state_or_a_bundle_of_any_bytes_is_a_root_or_an_error() {
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path().to_str().unwrap();
    fuzz!(2_000, (Vec<u8>, String, Vec<u8>), |(any, root, config)| {
        // A generated path could lead to a device file that never ends.
        let named = String::from_utf8_lossy(any).contains("bundle");
        assert!(named || container_root(any.as_slice()).is_err());

        let state = serde_json::json!({ "bundle": path, "annotations": { root: root } });
        let state = serde_json::to_vec(&state).unwrap();
        fs::write(bundle.path().join("config.json"), config).unwrap();
        let _ = container_root(state.as_slice());

        let config = serde_json::json!({ "root": { "path": root } }).to_string();
        fs::write(bundle.path().join("config.json"), config).unwrap();
        let found = container_root(state.as_slice()).unwrap();
        assert_eq!(found, bundle.path().join(root));
    });
}
