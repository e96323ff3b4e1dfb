use serde_json::{Value, json};
use tessera_api::{AVAILABLE, Feature, GpuConfig, MigDeviceConfig};

use super::*;

const DRIVER: &str = "gpu.nvidia.com";

fn parameters(kind: &str) -> Value {
    json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind})
}

/// A `GpuConfig` that this version refuses, so that a test sees whether it is the one that applies.
fn time_slicing() -> Value {
    let mut config = parameters("GpuConfig");
    config["sharing"] = json!({"strategy": "TimeSlicing"});
    config
}

fn from(source: &str, requests: &[&str], parameters: &Value) -> Value {
    let opaque = json!({"driver": DRIVER, "parameters": parameters});
    json!({"source": source, "requests": requests, "opaque": opaque})
}

fn class(requests: &[&str], parameters: &Value) -> Value {
    from("FromClass", requests, parameters)
}

fn claim(requests: &[&str], parameters: &Value) -> Value {
    from("FromClaim", requests, parameters)
}

/// What applies to the device that was allocated for the request.
fn effective(
    entries: &[Value],
    request: &str,
    device: &str,
) -> Result<Option<Config>, ConfigurationRefusal> {
    let entries: Vec<DeviceAllocationConfiguration> =
        serde_json::from_value(Value::from(entries)).unwrap();
    Ok(both(&entries, request, device)?.device)
}

/// The same, with what applies to its share.
fn both(
    entries: &[DeviceAllocationConfiguration],
    request: &str,
    device: &str,
) -> Result<Effective, ConfigurationRefusal> {
    Configurations::decode(entries, DRIVER, AVAILABLE)?.effective(request, &device.parse().unwrap())
}

fn gpu() -> Config {
    Config::Gpu(GpuConfig::default())
}

fn mig() -> Config {
    Config::MigDevice(MigDeviceConfig::default())
}

#[track_caller]
fn refuses_time_slicing(entries: &[Value], request: &str) {
    match effective(entries, request, "gpu-0") {
        Err(ConfigurationRefusal::Unsupported { wish, .. }) => {
            assert_eq!(wish.feature, Feature::TimeSlicing);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_configuration_a_device_is_used_as_it_is() {
    assert_eq!(effective([].as_slice(), "a", "gpu-0"), Ok(None));
    let other = claim(&["b"], &parameters("GpuConfig"));
    assert_eq!(effective(&[other], "a", "gpu-0"), Ok(None));
}

#[test]
fn the_claim_counts_more_than_the_class_in_whatever_order_they_stand() {
    let plain = parameters("GpuConfig");
    for entries in [
        [class(&[], &time_slicing()), claim(&[], &plain)],
        [claim(&[], &plain), class(&["a"], &time_slicing())],
    ] {
        assert_eq!(effective(&entries, "a", "gpu-0"), Ok(Some(gpu())));
    }
    refuses_time_slicing(&[class(&["a"], &plain), claim(&[], &time_slicing())], "a");
}

#[test]
fn of_one_origin_the_later_counts_more_whether_it_names_the_request_or_not() {
    let plain = parameters("GpuConfig");
    for source in [class, claim] {
        let entries = [source(&["a"], &time_slicing()), source(&[], &plain)];
        assert_eq!(effective(&entries, "a", "gpu-0"), Ok(Some(gpu())));
        refuses_time_slicing(&[source(&["a"], &plain), source(&[], &time_slicing())], "a");
    }
}

#[test]
fn a_configuration_that_names_the_list_applies_to_its_alternatives() {
    let plain = parameters("GpuConfig");
    for named in ["a", "a/large"] {
        let entries = [claim(&[], &time_slicing()), claim(&[named], &plain)];
        assert_eq!(
            effective(&entries, "a/large", "gpu-0"),
            Ok(Some(gpu())),
            "{named}"
        );
    }
    for named in ["a/small", "large", "a/", "b"] {
        let entries = [claim(&[named], &time_slicing())];
        assert_eq!(effective(&entries, "a/large", "gpu-0"), Ok(None), "{named}");
    }
    // Without a prioritized list the request has no alternatives to name.
    let entries = [claim(&["a/large"], &time_slicing())];
    assert_eq!(effective(&entries, "a", "gpu-0"), Ok(None));
}

#[test]
fn each_alternative_takes_the_configuration_that_fits_it() {
    let entries = [
        claim(&["a"], &parameters("GpuConfig")),
        claim(&["a"], &parameters("MigDeviceConfig")),
    ];
    let mig_name = "gpu-0-mig-1g10gb-19-0";
    assert_eq!(effective(&entries, "a/large", "gpu-0"), Ok(Some(gpu())));
    assert_eq!(effective(&entries, "a/small", mig_name), Ok(Some(mig())));
    // Without names it is the same.
    let entries = [
        class(&[], &parameters("GpuConfig")),
        class(&[], &parameters("MigDeviceConfig")),
    ];
    assert_eq!(effective(&entries, "a", "gpu-0"), Ok(Some(gpu())));
    assert_eq!(effective(&entries, "b", mig_name), Ok(Some(mig())));
}

#[test]
fn a_configuration_that_names_a_device_of_another_type_is_refused() {
    for (kind, device, fitting) in [
        ("GpuConfig", "gpu-0-mig-1g10gb-19-0", "MigDeviceConfig"),
        ("MigDeviceConfig", "gpu-0", "GpuConfig"),
        ("GpuConfig", "gpu-vfio-0", "VfioDeviceConfig"),
    ] {
        let entries = [claim(&["a"], &parameters(kind))];
        let error = effective(&entries, "a", device).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "status.allocation.devices.config[0].opaque.parameters.kind: {kind:?} names \
                 request a, which was allocated {device}, and does not fit it; write a {fitting} \
                 for that request (it comes from the claim)"
            )
        );
    }
}

#[test]
fn a_mistake_is_reported_even_where_the_configuration_applies_to_nothing() {
    let mut wrong = parameters("GpuConfig");
    wrong["sharing"] = json!({"strategy": "Fast"});
    let other = json!({"source": "FromClass", "opaque": {"driver": "dra.net", "parameters": {}}});
    let entries = [
        other,
        class(&["b"], &wrong),
        claim(&[], &parameters("GpuConfig")),
    ];
    let error = effective(&entries, "a", "gpu-0").unwrap_err().to_string();
    assert_eq!(
        error,
        "status.allocation.devices.config[1].opaque.parameters.sharing.strategy: unknown GPU \
         sharing strategy \"Fast\"; write TimeSlicing or MPS (it comes from the device class)"
    );
}

#[test]
fn a_wish_counts_only_where_it_applies() {
    let entries = [
        class(&[], &time_slicing()),
        claim(&[], &parameters("VfioDeviceConfig")),
        claim(&[], &parameters("GpuConfig")),
    ];
    assert_eq!(effective(&entries, "a", "gpu-0"), Ok(Some(gpu())));
}

#[test]
fn a_driver_without_kinds_refuses_what_it_would_ignore() {
    let entries =
        [json!({"source": "FromClaim", "opaque": {"driver": "dra.net", "parameters": {}}})];
    let entries: Vec<DeviceAllocationConfiguration> =
        serde_json::from_value(Value::from(entries.as_slice())).unwrap();
    assert!(Configurations::decode(&entries, DRIVER, AVAILABLE).is_ok());
    assert!(matches!(
        Configurations::decode(&entries, "dra.net", AVAILABLE),
        Err(ConfigurationRefusal::NoKinds { .. })
    ));
}

/// Limits of a share.
fn share() -> Value {
    json!({"apiVersion": "tessera-dra.github.io/v1alpha1", "kind": "ShareConfig"})
}

#[test]
fn limits_of_a_share_are_not_lost_whichever_configuration_of_the_device_counts() {
    let plain = parameters("GpuConfig");
    for entries in [
        vec![class(&[], &share()), claim(&["gpu"], &plain)],
        vec![claim(&["gpu"], &plain), claim(&[], &share())],
        vec![claim(&["gpu"], &share())],
    ] {
        let entries: Vec<DeviceAllocationConfiguration> =
            serde_json::from_value(Value::from(entries)).unwrap();
        let found = both(&entries, "gpu", "gpu-0").unwrap();
        assert_eq!(found.share, Some(ShareConfig::default()));
        let plain = entries.len() > 1;
        assert_eq!(found.device, plain.then(gpu));
    }
}

#[test]
fn limits_of_a_share_reach_only_what_can_be_shared() {
    let entries = [claim(&["other"], &share())];
    assert_eq!(effective(&entries, "gpu", "gpu-0"), Ok(None));
    let entries = [claim(&["gpu"], &share())];
    match effective(&entries, "gpu", "gpu-vfio-0") {
        Err(ConfigurationRefusal::Mismatched { fitting, .. }) => {
            assert_eq!(fitting, Kind::VfioDeviceConfig);
        }
        other => panic!("{other:?}"),
    }
    let everywhere = [claim(&[], &share())];
    assert_eq!(effective(&everywhere, "gpu", "gpu-vfio-0"), Ok(None));
}
