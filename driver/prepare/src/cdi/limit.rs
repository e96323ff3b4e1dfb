//! The limit of a container's memory in a spec: how it is written, and read back.

use serde_json::Value;
use tessera_device::Bytes;

use super::render::{GpuEdits, hook};
use super::{DriverInstall, Hook, LimitHook};
use crate::share::ceiling_told;

const COMMAND: &str = "limit-memory";
const BYTES: &str = "--bytes";

/// The hook that has the container limited before any process of it runs. It is called where the runtime has made
/// the container's cgroup, in the namespaces of the host. Its arguments stand in the spec and not in the
/// container's environment, which an image can change.
///
/// It is our own program whatever the other hooks are. Where that is missing the container does not start.
pub(super) fn limit_hook(edits: &GpuEdits<'_>, install: &DriverInstall) -> Option<Hook> {
    let Bytes(limit) = edits.memory_limit?;
    let LimitHook { program, socket } = &install.limit_hook;
    let arguments = [
        ("--socket", socket.clone()),
        ("--share", edits.name.clone()),
        ("--gpu", edits.gpu.uuid.to_string()),
        (BYTES, limit.to_string()),
    ];
    let arguments = arguments.map(|(flag, value)| [flag.to_owned(), value]);
    Some(Hook {
        hook_name: "createRuntime",
        ..hook(program, COMMAND, arguments.concat())
    })
}

/// How far a container may grow, as a spec which [`claim_spec`](super::claim_spec) has made tells it for its device of
/// this name.
pub fn ceiling_in(spec: &[u8], device: &str) -> Option<Bytes> {
    let spec: Value = serde_json::from_slice(spec).ok()?;
    let mut devices = spec.get("devices")?.as_array()?.iter();
    let found = devices.find(|entry| entry["name"] == device)?;
    let mut variables = found["containerEdits"]["env"].as_array()?.iter();
    variables.find_map(|variable| ceiling_told(variable.as_str()?))
}

/// The limit that a spec which [`claim_spec`](super::claim_spec) has made sets for its device of this name.
pub fn limit_in(spec: &[u8], device: &str) -> Option<Bytes> {
    let spec: Value = serde_json::from_slice(spec).ok()?;
    let mut devices = spec.get("devices")?.as_array()?.iter();
    let found = devices.find(|entry| entry["name"] == device)?;
    let mut hooks = found["containerEdits"]["hooks"].as_array()?.iter();
    hooks.find_map(|hook| {
        let args = hook["args"].as_array()?;
        let mut words = args.iter().filter_map(Value::as_str);
        if words.nth(1)? != COMMAND {
            return None;
        }
        words.find(|word| *word == BYTES)?;
        words.next()?.parse().ok().map(Bytes)
    })
}
