//! The plugin is replaced, killed and killed again, and nobody is disturbed.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;

use super::manifests::{all_gpus, one_gpu};
use super::survival::slice_uids;
use crate::churn::{PODS, churn};
use crate::context::{COLLECT_LIMIT, Context, START_LIMIT, went_on};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope, containers, runs, uid};
use crate::plugin_pod::{DAEMON_SET, Plugin, errors_of, is_plugin};
use crate::release::{RELEASE, all_ready};

/// What an update of the plugin on two nodes may take.
const UPDATE_LIMIT: Duration = Duration::from_mins(3);

/// Time between two deaths of the plugin.
const DEATH_INTERVAL: Duration = Duration::from_secs(2);

/// How many of the pods must run although the plugin keeps dying.
const MUST_RUN: usize = 40;

/// Decides the order in which pods come and go.
const SEED: u64 = 4;

pub(crate) fn no_preparation_fails_while_the_plugin_is_updated(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let slices = slice_uids(context, node)?;
    let before = errors(context)?;
    let mut updates = 0;
    let never = thread::scope(|scope| {
        let churning = scope.spawn(|| churn(context, node, SEED));
        let mut outcome = Ok(());
        while outcome.is_ok() && !churning.is_finished() {
            outcome = update(context, &before);
            updates += 1;
        }
        let never = joined(churning.join());
        outcome.and(never)
    })?;
    println!("    the plugin was updated {updates} times");
    if updates < 2 {
        return Err(Failure::wrong(
            "the pods were gone before the plugin was updated a second time".to_owned(),
        ));
    }
    nothing("preparations have failed", &context.failed_preparations()?)?;
    nothing("pods never ran", &never)?;
    // An object that is deleted and made anew has another UID.
    same("the slices", &slice_uids(context, node)?, &slices)?;
    everything_is_free(context, node)
}

/// The counters of failed claims that are not zero, by the plugin's pod.
type Errors = BTreeMap<String, Vec<String>>;

/// Updates the plugin on all nodes, and holds if no old and no new pod of it has failed a claim since
/// these were its errors.
fn update(context: &Context<'_>, before: &Errors) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let ours = Scope::Namespace(RELEASE);
    no_more_errors(context, before)?;
    kubernetes.restart(RELEASE, &format!("daemonset/{DAEMON_SET}"))?;
    let nodes = context.nodes().len();
    let count = i32::try_from(nodes).unwrap_or(i32::MAX);
    let what = "every node to have the new pod of the plugin";
    kubernetes.wait(ours, what, UPDATE_LIMIT, |sets| {
        all_ready(sets, count).then_some(())
    })?;
    no_more_errors(context, before)?;
    let what = "the old pods of the plugin to be gone";
    kubernetes.wait(ours, what, UPDATE_LIMIT, |pods: &Objects<Pod>| {
        let plugins = pods.values().filter(|pod| is_plugin(pod));
        (plugins.count() == nodes).then_some(())
    })
}

fn errors(context: &Context<'_>) -> Result<Errors, Failure> {
    let pods: Objects<Pod> = context.kubernetes().list(Scope::Namespace(RELEASE))?;
    let mut found = Errors::new();
    for (name, pod) in pods {
        let stays = pod.metadata.deletion_timestamp.is_none();
        if stays && is_plugin(&pod) && runs(&pod) {
            let errors = errors_of(context.kubernetes(), &name)?;
            found.insert(name, errors);
        }
    }
    Ok(found)
}

fn no_more_errors(context: &Context<'_>, before: &Errors) -> Result<(), Failure> {
    for (pod, errors) in errors(context)? {
        let known = before.get(&pod).cloned().unwrap_or_default();
        same(&format!("the failures of {pod}"), &errors, &known)?;
    }
    Ok(())
}

pub(crate) fn pods_start_while_the_plugin_is_killed_every_two_seconds(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let plugin = Plugin::on(context.kubernetes(), node).pod()?;
    let slices = slice_uids(context, node)?;
    let (never, deaths) = thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let killing = scope.spawn(move || kill_until(&ended, context, node));
        let never = churn(context, node, SEED);
        drop(done);
        let deaths = joined(killing.join());
        Ok::<_, Failure>((never?, deaths?))
    })?;
    if deaths == 0 {
        return Err(Failure::wrong("the plugin was never killed"));
    }
    let ran = PODS - never.len();
    println!("    the plugin died {deaths} times; {ran} of {PODS} pods ran");
    if ran < MUST_RUN {
        return Err(Failure::wrong(format!("only {ran} of {PODS} pods ran")));
    }
    same("the slices", &slice_uids(context, node)?, &slices)?;
    let after = Plugin::on(context.kubernetes(), node).pod()?;
    same("the plugin's pod", &uid(&after), &uid(&plugin))?;
    same("its container", &containers(&after), &containers(&plugin))?;
    everything_is_free(context, node)
}

/// Kills the plugin's worker again and again until the other side hangs up; returns how often.
fn kill_until(
    ended: &mpsc::Receiver<()>,
    context: &Context<'_>,
    node: &Node,
) -> Result<usize, Failure> {
    let plugin = Plugin::on(context.kubernetes(), node);
    let mut deaths = 0;
    while ended.recv_timeout(DEATH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        node.kill(&[plugin.process()?]);
        deaths += 1;
    }
    Ok(deaths)
}

pub(crate) fn the_death_of_the_plugins_first_process_disturbs_nobody(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&one_gpu("before"))?;
    let started = containers(&context.running(&["before"])?["before"]);
    let slices = slice_uids(context, node)?;
    let plugin = Plugin::on(context.kubernetes(), node).pod()?;
    node.kill(&[Plugin::on(context.kubernetes(), node).keeper()?]);
    let what = "the plugin's container to run again";
    let ours = Scope::Namespace(RELEASE);
    context
        .kubernetes()
        .wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
            let mut now = pods.values().filter(|pod| uid(*pod) == uid(&plugin));
            now.any(|pod| runs(pod) && containers(pod) != containers(&plugin))
                .then_some(())
        })?;
    context.apply(&one_gpu("after"))?;
    let pods = context.running(&["before", "after"])?;
    went_on(&pods["before"], &started)?;
    same("the slices", &slice_uids(context, node)?, &slices)?;
    context.delete_pods(&["before", "after"])?;
    everything_is_free(context, node)
}

/// Holds if nothing is left of any claim and a pod can have all GPUs of the node.
fn everything_is_free(context: &Context<'_>, node: &Node) -> Result<(), Failure> {
    context.no_claims()?;
    context.nothing_left_within(COLLECT_LIMIT)?;
    context.apply(&all_gpus("all", node))?;
    context.running(&["all"]).map(drop)
}

fn joined<T>(outcome: thread::Result<Result<T, Failure>>) -> Result<T, Failure> {
    outcome.unwrap_or_else(|_panic| Err(Failure::wrong("a defect of the scenario")))
}
