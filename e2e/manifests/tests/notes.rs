//! The notes after an installation, rendered as a template since `helm template` leaves them out.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::path::Path;

use tessera_manifests::chart::{Install, chart};

const NOTES: &str = "notes.under.test";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[track_caller]
fn notes(settings: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    copy(&chart(), folder.path());
    let notes = std::fs::read_to_string(chart().join("templates/NOTES.txt")).unwrap();
    let template = format!(
        "{{{{- define \"{NOTES}\" -}}}}{notes}{{{{- end -}}}}\n\
         kind: Notes\ntext: {{{{ include \"{NOTES}\" . | quote }}}}\n"
    );
    std::fs::write(folder.path().join("templates/notes.yaml"), template).unwrap();
    let install = Install::default().set(settings).from_chart(folder.path());
    let documents = install.render().unwrap();
    let notes = documents
        .iter()
        .find(|document| document["kind"] == "Notes")
        .unwrap();
    notes["text"].as_str().unwrap().to_owned()
}

#[test]
fn the_notes_say_how_to_see_the_gpus() {
    let notes = notes("image.tag=dev");
    assert!(
        notes.contains("rollout status daemonset/tessera-kubelet-plugin"),
        "{notes}"
    );
    assert!(notes.contains("nvidia.com/gpu.present=true"), "{notes}");
}

/// The lines about values without effect.
fn listed(settings: &str) -> Vec<String> {
    let notes = notes(settings);
    let list = notes.split("have no effect in this release:").nth(1);
    let lines = list.unwrap_or_default().lines();
    lines
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn values_without_effect_are_named_with_the_reason_and_others_are_not() {
    let quiet = "image.tag=dev";
    assert_eq!(listed(quiet), [""; 0]);
    for (setting, line) in [
        (
            "maskNvidiaDriverParams=true",
            "maskNvidiaDriverParams = true: not yet, because ",
        ),
        (
            "controller.metrics.profilePath=/debug",
            "controller.metrics.profilePath = \"/debug\": never, because ",
        ),
        (
            "resources.computeDomains.imex.isolation=channel",
            "resources.computeDomains.imex.isolation = \"channel\": never, because ",
        ),
        (
            "gpuDriverConfig.default=passthrough",
            "gpuDriverConfig.default = \"passthrough\": not yet, because ",
        ),
        (
            "resources.computeDomains.imex.config.IMEX_X=a",
            "resources.computeDomains.imex.config = {\"IMEX_X\":\"a\"}: not yet, because ",
        ),
        (
            "kubeletPlugin.containers.init.resources.limits.cpu=1",
            "kubeletPlugin.containers.init.resources = {\"limits\":{\"cpu\":1}}: never, because ",
        ),
    ] {
        let lines = listed(&format!("{quiet},{setting}"));
        assert!(
            lines.len() == 1 && lines[0].starts_with(line),
            "{line}: {lines:?}"
        );
    }
}

#[test]
fn without_gpus_the_notes_do_not_promise_any() {
    let domains = notes("resources.gpus.enabled=false");
    assert!(
        domains.contains("GPUs are off") && domains.contains("rollout"),
        "{domains}"
    );
    let nothing = notes("resources.gpus.enabled=false,resources.computeDomains.enabled=false");
    assert!(
        nothing.contains("no node has a plugin") && !nothing.contains("rollout"),
        "{nothing}"
    );
}

#[test]
fn the_notes_say_when_an_update_leaves_a_gap() {
    let gap = "stops the old pod";
    assert!(!notes("").contains(gap), "{}", notes(""));
    let notes = notes("kubeletPlugin.updateStrategy.rollingUpdate.maxUnavailable=1");
    assert!(notes.contains(gap), "{notes}");
}
