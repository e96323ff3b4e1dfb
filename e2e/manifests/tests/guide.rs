//! A values file that users of the reference driver are told to use, as it is and cut off.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use serde_yaml_ng::Value;
use tessera_manifests::chart::{Install, RenderError};

/// The values file of the AWS guide for P6e-GB200 with the node affinity that its print cuts off.
const GUIDE: &str = include_str!("data/guide-values.yaml");

/// Renders the guide's values file up to the line that starts with `last`.
fn guide_up_to(last: Option<&str>) -> Result<Vec<Value>, RenderError> {
    let mut lines = Vec::new();
    for line in GUIDE.lines() {
        lines.push(line);
        if last.is_some_and(|last| line.trim_start().starts_with(last)) {
            break;
        }
    }
    if last.is_some() {
        // Else the mark is not in the file, and nothing was cut off.
        assert!(lines.len() < GUIDE.lines().count(), "{last:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    Install::bare()
        .into_namespace("nvidia-dra-driver-gpu")
        .values(file.path())
        .render()
}

#[test]
fn the_guides_values_are_taken_as_they_are() {
    let documents = guide_up_to(None).unwrap();
    let pod = |kind: &str| {
        let document = documents.iter().find(|document| document["kind"] == kind);
        document.unwrap()["spec"]["template"]["spec"].clone()
    };
    let term = r#"[{"matchExpressions":[{"key":"nvidia.com/gpu.present","operator":"Exists"}]}]"#;
    let term: Value = serde_yaml_ng::from_str(term).unwrap();
    let affinity = &pod("DaemonSet")["affinity"]["nodeAffinity"];
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(required["nodeSelectorTerms"], term);
    for key in ["affinity", "nodeSelector"] {
        assert_eq!(pod("Deployment").get(key), None, "{key}");
    }
    // None of the guide's: only that of nodes which are held for a domain.
    let tolerations = pod("Deployment")["tolerations"].clone();
    assert_eq!(tolerations.as_sequence().map(Vec::len), Some(1));
}

#[test]
fn the_guides_values_cut_off_within_the_affinity_are_refused_with_its_key() {
    for last in [
        "nodeAffinity:",
        "requiredDuringScheduling",
        "nodeSelectorTerms:",
        "- matchExpressions:",
        "- key:",
    ] {
        match guide_up_to(Some(last)) {
            Err(RenderError::Refused(message)) => {
                assert!(
                    message.contains("kubeletPlugin.affinity"),
                    "{last}: {message}"
                );
                assert!(
                    message.contains("nvidia.com/gpu.present"),
                    "{last}: {message}"
                );
            }
            other => panic!("{last}: {other:?}"),
        }
    }
}
