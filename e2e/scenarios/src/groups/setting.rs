//! Settings of the plugin that last as long as a scenario needs them.

use k8s_openapi::api::apps::v1::DaemonSet;

use crate::context::{Context, START_LIMIT};
use crate::failure::Failure;
use crate::kubernetes::{Objects, Scope};
use crate::plugin_pod::DAEMON_SET;
use crate::release::{RELEASE, all_ready};

/// Runs a part of a scenario while the plugin on every node has this in its environment.
///
/// It is taken back after a failure too: the next scenario must not meet it.
pub(super) fn with<T>(
    context: &Context<'_>,
    variable: &str,
    value: &str,
    part: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let outcome = set(context, &format!("{variable}={value}")).and_then(|()| part());
    let taken_back = set(context, &format!("{variable}-"));
    let outcome = outcome?;
    taken_back?;
    Ok(outcome)
}

/// Changes the environment of the plugin, and returns when every node has it.
fn set(context: &Context<'_>, change: &str) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let ours = Scope::Namespace(RELEASE);
    let plugins = format!("daemonset/{DAEMON_SET}");
    let arguments = ["set", "env", &plugins, "--containers=gpus", change];
    kubernetes.command(RELEASE, &arguments, None)?;
    let nodes = i32::try_from(context.nodes().len()).unwrap_or(i32::MAX);
    let what = format!("every node to have the plugin with {change}");
    kubernetes.wait(ours, &what, START_LIMIT * 2, |sets: &Objects<DaemonSet>| {
        all_ready(sets, nodes).then_some(())
    })
}
