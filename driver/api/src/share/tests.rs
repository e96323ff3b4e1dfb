use serde_json::{Value, json};
use tessera_device::Bytes;

use super::*;
use crate::config::{Config, Driver};
use crate::document::Document;
use crate::feature::Feature;
use crate::group::OWN_API_VERSION;
use crate::path::FieldPath;

const BASE: &str = "spec.devices.config[0].opaque.parameters";

fn at() -> FieldPath {
    FieldPath::parameters(BASE)
}

fn decode(fields: &Value) -> Result<ShareConfig, ConfigError> {
    let mut value = json!({"apiVersion": OWN_API_VERSION, "kind": "ShareConfig"});
    let fields = fields.as_object().unwrap().clone();
    value.as_object_mut().unwrap().extend(fields);
    match Config::decode(Driver::Gpu, &at(), &Document::from(&value))? {
        Config::Share(config) => Ok(config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_left_out_is_the_guarantee_alone_and_enforced_by_whatever_the_node_has() {
    let plain = ShareConfig {
        memory: MemoryConfig {
            limit: None,
            enforcement: Enforcement::Required(MinimumTier::Shim),
            on_pressure: Pressure::OutOfMemory,
        },
        compute: ComputeConfig {
            mode: None,
            weight: None,
        },
        swap: None,
    };
    for fields in [
        json!({}),
        json!({"memory": {}, "compute": {}, "swap": {}}),
        json!({"memory": null, "swap": {"policy": "Never"}}),
        json!({"memory": {"enforcement": "Required", "minimumTier": "Shim"}}),
    ] {
        assert_eq!(decode(&fields), Ok(plain), "{fields}");
    }
}

#[test]
fn every_field_is_read() {
    let fields = json!({
        "memory": {"limit": "100%", "minimumTier": "Native", "onPressure": "Swap"},
        "compute": {"mode": "TimeWindows", "weight": 200},
        "swap": {"policy": "Prefer", "idleSeconds": 30, "minResidencySeconds": 60,
            "maxWakeSeconds": 5, "hostLimit": "1.5Gi", "assumeUnshared": true},
    });
    let expected = ShareConfig {
        memory: MemoryConfig {
            limit: Some(MemoryLimit::Percent(100)),
            enforcement: Enforcement::Required(MinimumTier::Native),
            on_pressure: Pressure::Swap,
        },
        compute: ComputeConfig {
            mode: Some(ComputeMode::TimeWindows),
            weight: Some(200),
        },
        swap: Some(SwapConfig {
            willingness: Willingness::Prefer,
            idle_seconds: Some(30),
            min_residency_seconds: Some(60),
            max_wake_seconds: Some(5),
            host_limit: Some(Bytes::from_mib(1536)),
            assume_unshared: true,
        }),
    };
    assert_eq!(decode(&fields), Ok(expected));
    let best_effort = decode(&json!({"memory": {"limit": "40Gi", "enforcement": "BestEffort"}}));
    let memory = best_effort.unwrap().memory;
    assert_eq!(memory.enforcement, Enforcement::BestEffort);
    assert_eq!(
        memory.limit,
        Some(MemoryLimit::Amount(Bytes::from_mib(40 << 10)))
    );
}

#[track_caller]
fn refused(fields: &Value, message: &str) {
    let error = decode(fields).unwrap_err().to_string();
    assert_eq!(error, format!("{BASE}{message}"));
}

#[test]
fn a_wrong_value_for_memory_is_refused_with_the_value_and_what_to_write() {
    let percentage =
        "is not a whole percentage; write one from 1% to 100%, or an amount such as 10Gi";
    for (fields, message) in [
        (
            json!({"memory": "10Gi"}),
            ".memory: must be an object, but is a string, \"10Gi\"".to_owned(),
        ),
        (
            json!({"memory": {"request": "10Gi"}}),
            ".memory.request: strict decoding error: unknown field \"memory.request\"; remove it, or \
             write limit, enforcement, minimumTier or onPressure"
                .to_owned(),
        ),
        (
            json!({"memory": {"limit": "0"}}),
            ".memory.limit: invalid limit: \"0\" is less than 1Mi; write an amount such as 512Mi or \
             10Gi"
                .to_owned(),
        ),
        (
            json!({"memory": {"limit": "101%"}}),
            format!(".memory.limit: invalid limit: \"101%\" {percentage}"),
        ),
        (
            json!({"memory": {"limit": "0%"}}),
            format!(".memory.limit: invalid limit: \"0%\" {percentage}"),
        ),
        (
            json!({"memory": {"limit": "+5%"}}),
            format!(".memory.limit: invalid limit: \"+5%\" {percentage}"),
        ),
        (
            json!({"memory": {"limit": "12.5%"}}),
            format!(".memory.limit: invalid limit: \"12.5%\" {percentage}"),
        ),
        (
            json!({"memory": {"enforcement": "none"}}),
            ".memory.enforcement: unknown enforcement \"none\"; write Required or BestEffort".to_owned(),
        ),
        (
            json!({"memory": {"enforcement": "BestEffort", "minimumTier": "Native"}}),
            ".memory.minimumTier: Native cannot be used with memory.enforcement: BestEffort; remove \
             it, or write memory.enforcement: Required"
                .to_owned(),
        ),
        (
            json!({"memory": {"minimumTier": "native"}}),
            ".memory.minimumTier: unknown tier \"native\"; write Native, MPS or Shim".to_owned(),
        ),
        (
            json!({"memory": {"onPressure": "OOM"}}),
            ".memory.onPressure: unknown answer to pressure \"OOM\"; write OutOfMemory, Trim, Swap or \
             Evict"
                .to_owned(),
        ),
        (
            json!({"memory": {"onPressure": "Swap"}}),
            ".memory.onPressure: Swap cannot be used with swap.policy: Never; write swap.policy: \
             Allow, or memory.onPressure: Trim"
                .to_owned(),
        ),
    ] {
        refused(&fields, &message);
    }
}

#[test]
fn a_wrong_value_for_compute_or_swap_is_refused_with_the_value_and_what_to_write() {
    for (fields, message) in [
        (
            json!({"compute": {"mode": "mps"}}),
            ".compute.mode: unknown compute mode \"mps\"; write TimeSlicing, TimeWindows or MPS",
        ),
        (
            json!({"compute": {"weight": 5}}),
            ".compute.weight: 5 cannot be used with any compute.mode but TimeWindows; remove it, or \
             write compute.mode: TimeWindows",
        ),
        (
            json!({"compute": {"mode": "TimeWindows", "weight": 0}}),
            ".compute.weight: the weight must not be 0; write a whole number from 1 to 1000",
        ),
        (
            json!({"compute": {"mode": "TimeWindows", "weight": 1.5}}),
            ".compute.weight: the weight must not be 1.5; write a whole number from 1 to 1000",
        ),
        (
            json!({"swap": {"idleSeconds": 10}}),
            ".swap.idleSeconds: 10 cannot be used with swap.policy: Never; remove it, or write \
             swap.policy: Allow or swap.policy: Prefer",
        ),
        (
            json!({"swap": {"policy": "Allow", "maxWakeSeconds": 86_401}}),
            ".swap.maxWakeSeconds: the time to wake must not be 86401; write a whole number from 1 to \
             86400",
        ),
        (
            json!({"swap": {"policy": "Allow", "hostLimit": "-1Gi"}}),
            ".swap.hostLimit: invalid limit: \"-1Gi\" is less than 1Mi; write an amount such as 512Mi \
             or 10Gi",
        ),
        (
            json!({"swap": {"policy": "Always"}}),
            ".swap.policy: unknown swap policy \"Always\"; write Never, Allow or Prefer",
        ),
    ] {
        refused(&fields, message);
    }
}

#[test]
fn the_kind_stands_beside_the_version_of_our_own_group_and_no_other() {
    let refused = |version: &str, kind: &str| {
        let value = json!({"apiVersion": version, "kind": kind});
        let error = Config::decode(Driver::Gpu, &at(), &Document::from(&value)).unwrap_err();
        error.to_string()
    };
    for (version, kind, message) in [
        (
            "resource.nvidia.com/v1beta1",
            "ShareConfig",
            ".apiVersion: unknown API version \"resource.nvidia.com/v1beta1\"; write \
             tessera-dra.github.io/v1alpha1",
        ),
        (
            "tessera-dra.github.io/v1alpha1",
            "GpuConfig",
            ".apiVersion: unknown API version \"tessera-dra.github.io/v1alpha1\"; write \
             resource.nvidia.com/v1beta1",
        ),
        (
            "tessera-dra.github.io/v1alpha1",
            "MemoryConfig",
            ".kind: unknown kind \"MemoryConfig\"; write ShareConfig",
        ),
        (
            "v1",
            "MemoryConfig",
            ".apiVersion: unknown API version \"v1\"; write resource.nvidia.com/v1beta1 or \
             tessera-dra.github.io/v1alpha1",
        ),
    ] {
        assert_eq!(refused(version, kind), format!("{BASE}{message}"));
    }
}

#[test]
fn limits_that_nothing_would_hold_are_refused_and_not_ignored() {
    let config = Config::Share(decode(&json!({})).unwrap());
    let wish = config.require(&at(), &[Feature::TimeSlicing]).unwrap_err();
    assert_eq!(
        wish.to_string(),
        format!(
            "{BASE}.kind: \"ShareConfig\" asks for limits of shares, which this version does not \
             have yet; remove the configuration"
        )
    );
    assert_eq!(config.require(&at(), &[Feature::Shares]), Ok(()));
}
