//! Kubelet and plugin end and start again, alone and together; the slices and the running pods are to survive it.
//!
//! A kubelet that starts deletes its node's slices and registers the plugin, in whichever order that comes. One that
//! loses its connection to the plugin deletes the plugin's slices after 30 s.

use std::time::Duration;

use tessera_cluster::Node;

use super::manifests::one_gpu_on;
use crate::context::{Context, START_LIMIT, went_on};
use crate::failure::{Failure, nothing, same};
use crate::kubelet_log::{KubeletLog, Said};
use crate::kubernetes::{containers, name, restarts};
use crate::pause::pause;
use crate::plugin_pod::Plugin;
use crate::presence::Presence;

/// How often the kubelet is restarted.
const KUBELET_RESTARTS: usize = 20;

/// How long slices may be missing after a kubelet has deleted them.
const LONGEST_GAP: Duration = Duration::from_millis(500);

/// How often kubelet and plugin are restarted together: half of it in each order, in the long form all of it in each.
const RESTARTS_TOGETHER: u32 = 10;

/// By how much the second of the two is later from one time to the next; never by a second.
const LATER_BY: Duration = Duration::from_millis(90);

/// When a plugin whose process was killed works again, and more.
const RESTARTED: Duration = Duration::from_secs(5);

/// When a kubelet deletes the slices of a plugin that it has lost, and a little.
const LOST_PLUGIN: Duration = Duration::from_secs(35);

pub(crate) fn slices_are_back_within_half_a_second_at_each_of_twenty_kubelet_restarts(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&one_gpu_on(node, "before"))?;
    let started = containers(&context.running(&["before"])?["before"]);
    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    for restart in 0..KUBELET_RESTARTS {
        let log = KubeletLog::of(node)?;
        node.restart_kubelet()?;
        let what = "slices after those that the kubelet deletes when it starts";
        presence.wait(what, START_LIMIT, |history| {
            (history.gaps.len() > restart).then_some(())
        })?;
        // Now the one comes first, now the other.
        log.wait(&[Said::Wiped, Said::Registered], START_LIMIT)?;
    }
    let gaps = presence.history()?.gaps;
    let longer: Vec<_> = gaps.iter().filter(|gap| **gap > LONGEST_GAP).collect();
    nothing("slices were missing for longer than half a second", &longer)?;
    context.apply(&one_gpu_on(node, "after"))?;
    let pods = context.running(&["before", "after"])?;
    went_on(&pods["before"], &started)
}

pub(crate) fn slices_stay_when_the_plugin_is_killed_and_when_its_pod_is_replaced(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let plugin = Plugin::on(context.kubernetes(), node);
    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    let before = presence.history()?.present;

    let former = restarts(&plugin.pod()?);
    node.kill(&[plugin.process()?]);
    pause(RESTARTED)?;
    node.kill(&[plugin.keeper()?]);
    plugin.ready(START_LIMIT, |now| restarts(now) > former)?;
    let old = plugin.replace()?;
    plugin.ready(START_LIMIT, |now| name(now) != old)?;

    pause(LOST_PLUGIN)?;
    let history = presence.history()?;
    nothing("slices were missing for a time", &history.gaps)?;
    same("the slices", &history.present, &before)?;
    context.apply(&one_gpu_on(node, "after"))?;
    context.running(&["after"]).map(drop)
}

#[derive(Debug, Clone, Copy)]
enum First {
    Kubelet,
    Plugin,
}

pub(crate) fn slices_are_back_when_kubelet_and_plugin_restart_within_a_second(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let plugin = Plugin::on(context.kubernetes(), node);
    context.apply(&one_gpu_on(node, "before"))?;
    let started = containers(&context.running(&["before"])?["before"]);
    let presence = Presence::of(context.kubernetes(), node, START_LIMIT)?;
    for first in [First::Kubelet, First::Plugin] {
        for time in 0..context.either(RESTARTS_TOGETHER / 2, RESTARTS_TOGETHER) {
            let gaps = presence.history()?.gaps.len();
            let old = restart_both(node, plugin, first, LATER_BY * time)?;
            let what = format!("slices after restart {time}, the {first:?} first");
            presence.wait(&what, START_LIMIT, |history| {
                (history.gaps.len() > gaps && !history.present.is_empty()).then_some(())
            })?;
            plugin.ready(START_LIMIT, |now| name(now) != old)?;
        }
    }
    context.apply(&one_gpu_on(node, "after"))?;
    let pods = context.running(&["before", "after"])?;
    went_on(&pods["before"], &started)?;
    nothing("preparations have failed", &context.failed_preparations()?)
}

/// Ends both, the second later than the first by this time, and returns the name of the plugin's former pod.
///
/// The plugin's pod is replaced rather than left to be restarted: the kubelet makes a container that ends often wait for
/// minutes.
fn restart_both(
    node: &Node,
    plugin: Plugin<'_>,
    first: First,
    later: Duration,
) -> Result<String, Failure> {
    let end_plugin = || {
        node.end(&[plugin.keeper()?]);
        plugin.replace()
    };
    match first {
        First::Kubelet => {
            node.restart_kubelet()?;
            pause(later)?;
            end_plugin()
        }
        First::Plugin => {
            let old = end_plugin()?;
            pause(later)?;
            node.restart_kubelet()?;
            Ok(old)
        }
    }
}
