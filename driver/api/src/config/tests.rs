mod any;

use serde_json::json;
use tessera_device::Bytes;

use super::*;
use crate::available;
use crate::compute_domain::AllocationMode;
use crate::share::{
    ComputeConfig, ComputeMode, Enforcement, MemoryConfig, MemoryLimit, MinimumTier, Pressure,
    SwapConfig, Willingness,
};
use crate::sharing::{Interval, LimitedDevice, MpsConfig};
use crate::vfio::IommuBackend;

const BASE: &str = "spec.devices.config[0].opaque.parameters";

fn at() -> FieldPath {
    FieldPath::parameters(BASE)
}

fn decode(driver: Driver, value: &Value) -> Result<Config, ConfigError> {
    Config::decode(driver, &at(), &Document::from(value))
}

/// `kind` with further fields.
fn of_kind(kind: &str, fields: &Value) -> Value {
    let version = Kind::named(kind).map_or(API_VERSION, Kind::api_version);
    let mut value = json!({"apiVersion": version, "kind": kind});
    let fields = fields.as_object().unwrap().clone();
    value.as_object_mut().unwrap().extend(fields);
    value
}

#[track_caller]
fn accepted(kind: &str, fields: &Value, expected: &Config) {
    let driver = expected.kind().driver();
    let found = decode(driver, &of_kind(kind, fields)).unwrap();
    assert_eq!(found, *expected);
    assert_eq!(found.kind().as_str(), kind);
}

#[test]
fn what_is_left_out_gets_the_defaults_of_the_reference() {
    let plain = Config::Gpu(GpuConfig::default());
    accepted("GpuConfig", &json!({}), &plain);
    accepted("GpuConfig", &json!({"sharing": null}), &plain);
    let plain = Config::MigDevice(MigDeviceConfig::default());
    accepted("MigDeviceConfig", &json!({}), &plain);
    let plain = Config::VfioDevice(VfioDeviceConfig {
        backend: IommuBackend::LegacyOnly,
        enable_api_device: false,
    });
    for fields in [
        json!({}),
        json!({"iommu": {}}),
        json!({"iommu": {"enableAPIDevice": false}}),
    ] {
        accepted("VfioDeviceConfig", &fields, &plain);
    }
    accepted(
        "ComputeDomainChannelConfig",
        &json!({"domainID": "d"}),
        &Config::ComputeDomainChannel(ComputeDomainChannelConfig {
            domain_id: "d".to_owned(),
            allocation_mode: AllocationMode::Single,
        }),
    );
}

#[test]
fn a_strategy_without_settings_gets_the_default_settings() {
    let time_slicing = |interval| {
        Config::Gpu(GpuConfig {
            sharing: Some(GpuSharing::TimeSlicing(interval)),
        })
    };
    for (sharing, interval) in [
        (json!({"strategy": "TimeSlicing"}), Interval::Default),
        (
            json!({"strategy": "TimeSlicing", "timeSlicingConfig": {}}),
            Interval::Default,
        ),
        (
            json!({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}),
            Interval::Long,
        ),
    ] {
        accepted(
            "GpuConfig",
            &json!({"sharing": sharing}),
            &time_slicing(interval),
        );
    }
    accepted(
        "GpuConfig",
        &json!({"sharing": {"strategy": "MPS"}}),
        &Config::Gpu(GpuConfig {
            sharing: Some(GpuSharing::Mps(MpsConfig::default())),
        }),
    );
    accepted(
        "MigDeviceConfig",
        &json!({"sharing": {"strategy": "TimeSlicing"}}),
        &Config::MigDevice(MigDeviceConfig {
            sharing: Some(MigSharing::TimeSlicing),
        }),
    );
}

#[test]
fn memory_limits_are_whole_mebibytes_per_device() {
    let uuid = "GPU-00000000-0000-0000-0000-000000000001";
    accepted(
        "MigDeviceConfig",
        &json!({"sharing": {"strategy": "MPS", "mpsConfig": {
            "defaultActiveThreadPercentage": 50,
            "defaultPinnedDeviceMemoryLimit": "1.5Gi",
            "defaultPerDevicePinnedMemoryLimit": {"0": 3_000_000, uuid: "10G"},
            "multiUser": true,
        }}}),
        &Config::MigDevice(MigDeviceConfig {
            sharing: Some(MigSharing::Mps(MpsConfig {
                active_thread_percentage: Some(50),
                pinned_memory: Some(Bytes::from_mib(1536)),
                per_device: [
                    (LimitedDevice::Index(0), Bytes::from_mib(2)),
                    (LimitedDevice::Uuid(uuid.to_owned()), Bytes::from_mib(9536)),
                ]
                .into(),
                multi_user: true,
            })),
        }),
    );
}

#[track_caller]
fn refused(parameters: &Value, message: &str) {
    let error = decode(Driver::Gpu, parameters).unwrap_err().to_string();
    assert_eq!(error, format!("{BASE}{message}"));
}

#[test]
fn a_wrong_header_is_refused_with_what_to_write() {
    let gpu = "GpuConfig, MigDeviceConfig or VfioDeviceConfig";
    refused(&Value::Null, ": must be an object, but is null");
    refused(
        &json!("GpuConfig"),
        ": must be an object, but is a string, \"GpuConfig\"",
    );
    refused(
        &json!({"kind": "GpuConfig"}),
        ".apiVersion: is missing; write resource.nvidia.com/v1beta1",
    );
    refused(
        &json!({"apiVersion": "gpu.nvidia.com/v1", "kind": "GpuConfig"}),
        ".apiVersion: unknown API version \"gpu.nvidia.com/v1\"; write resource.nvidia.com/v1beta1",
    );
    refused(
        &json!({"apiVersion": API_VERSION}),
        &format!(".kind: is missing; write {gpu}"),
    );
    refused(
        &json!({"apiVersion": API_VERSION, "kind": "GPUConfig"}),
        &format!(".kind: unknown kind \"GPUConfig\"; write {gpu}"),
    );
    refused(
        &of_kind("ComputeDomainDaemonConfig", &json!({"domainID": "d"})),
        &format!(
            ".kind: \"ComputeDomainDaemonConfig\" configures devices of compute-domain.nvidia.com, \
             not of gpu.nvidia.com; name that driver in opaque.driver, or write {gpu}"
        ),
    );
}

#[test]
fn a_field_that_does_not_exist_is_refused_at_every_depth() {
    refused(
        &of_kind("GpuConfig", &json!({"metadata": {}})),
        ".metadata: strict decoding error: unknown field \"metadata\"; remove it, or write \
         apiVersion, kind or sharing",
    );
    refused(
        &of_kind(
            "GpuConfig",
            &json!({"sharing": {"strategy": "MPS", "mpsconfig": {}}}),
        ),
        ".sharing.mpsconfig: strict decoding error: unknown field \"sharing.mpsconfig\"; remove \
         it, or write strategy, timeSlicingConfig or mpsConfig",
    );
    refused(
        &of_kind(
            "MigDeviceConfig",
            &json!({"sharing": {"timeSlicingConfig": {}}}),
        ),
        ".sharing.timeSlicingConfig: strict decoding error: unknown field \
         \"sharing.timeSlicingConfig\"; remove it, or write strategy or mpsConfig",
    );
    refused(
        &of_kind("VfioDeviceConfig", &json!({"iommu": {"backend": "x"}})),
        ".iommu.backend: strict decoding error: unknown field \"iommu.backend\"; remove it, or \
         write backendPolicy or enableAPIDevice",
    );
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let text = r#"{"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig",
        "sharing": {"strategy": "MPS", "strategy": "TimeSlicing"}}"#;
    let error = Config::decode_text(Driver::Gpu, &at(), text).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{BASE}.sharing.strategy: strict decoding error: duplicate field \
             \"sharing.strategy\"; write it once"
        )
    );
    let error = Config::decode_text(Driver::Gpu, &at(), "{").unwrap_err();
    assert!(error.to_string().contains("is not JSON"), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_the_value_and_what_to_write() {
    let sharing = |sharing: Value| of_kind("GpuConfig", &json!({"sharing": sharing}));
    let mps = |field: &str, value: Value| {
        sharing(json!({"strategy": "MPS", "mpsConfig": {field: value}}))
    };
    let amount = "write an amount such as 512Mi or 10Gi";
    for (parameters, message) in [
        (
            sharing(json!([])),
            ".sharing: must be an object, but is a list",
        ),
        (
            sharing(json!({})),
            ".sharing.strategy: is missing; write TimeSlicing or MPS",
        ),
        (
            sharing(json!({"strategy": "Mps"})),
            ".sharing.strategy: unknown GPU sharing strategy \"Mps\"; write TimeSlicing or MPS",
        ),
        (
            sharing(json!({"strategy": 1})),
            ".sharing.strategy: must be a string, but is a number, 1",
        ),
        (
            sharing(json!({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "short"}})),
            ".sharing.timeSlicingConfig.interval: unknown time-slice interval \"short\"; write \
             Default, Short, Medium or Long",
        ),
        (
            sharing(json!({"strategy": "TimeSlicing", "mpsConfig": {}})),
            ".sharing.mpsConfig: cannot be used with the strategy \"TimeSlicing\"; remove it, or \
             write strategy: MPS",
        ),
        (
            sharing(json!({"strategy": "MPS", "timeSlicingConfig": {}})),
            ".sharing.timeSlicingConfig: cannot be used with the strategy \"MPS\"; remove it, or \
             write strategy: TimeSlicing",
        ),
        (
            mps("defaultActiveThreadPercentage", json!(101)),
            ".sharing.mpsConfig.defaultActiveThreadPercentage: the active thread percentage must \
             not be 101; write a whole number from 0 to 100",
        ),
        (
            mps("defaultActiveThreadPercentage", json!("50")),
            ".sharing.mpsConfig.defaultActiveThreadPercentage: must be a whole number, but is a \
             string, \"50\"",
        ),
        (
            mps("defaultPinnedDeviceMemoryLimit", json!("1023Ki")),
            &format!(
                ".sharing.mpsConfig.defaultPinnedDeviceMemoryLimit: invalid limit: \"1023Ki\" is \
                 less than 1Mi; {amount}"
            ),
        ),
        (
            mps("defaultPerDevicePinnedMemoryLimit", json!({"0": "ten"})),
            &format!(
                ".sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit[0]: invalid limit: \"ten\" \
                 is not a quantity; {amount}"
            ),
        ),
        (
            mps("defaultPerDevicePinnedMemoryLimit", json!({"gpu-0": "1Gi"})),
            ".sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit[gpu-0]: invalid device \
             \"gpu-0\"; write the index of a device among the claim's devices in the order of \
             their UUIDs (0, 1, …), or its UUID (GPU-… or MIG-…)",
        ),
        (
            mps("multiUser", json!("yes")),
            ".sharing.mpsConfig.multiUser: must be a boolean, but is a string, \"yes\"",
        ),
        (
            of_kind(
                "VfioDeviceConfig",
                &json!({"iommu": {"backendPolicy": "iommufd"}}),
            ),
            ".iommu.backendPolicy: unknown IOMMU backend policy \"iommufd\"; write LegacyOnly or \
             PreferIommuFD",
        ),
    ] {
        refused(&parameters, message);
    }
}

#[test]
fn a_compute_domain_must_be_named() {
    for fields in [json!({}), json!({"domainID": ""})] {
        for kind in Driver::ComputeDomain.kinds(API_VERSION) {
            let error = decode(Driver::ComputeDomain, &of_kind(kind, &fields)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{BASE}.domainID: is missing; write the UID of the ComputeDomain")
            );
        }
    }
    let fields = json!({"domainID": "d", "allocationMode": "all"});
    let channel = of_kind("ComputeDomainChannelConfig", &fields);
    let error = decode(Driver::ComputeDomain, &channel).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{BASE}.allocationMode: unknown allocation mode \"all\"; write Single or All")
    );
}

#[test]
fn a_wish_for_a_feature_that_is_missing_names_field_value_and_feature() {
    let mps = of_kind("GpuConfig", &json!({"sharing": {"strategy": "MPS"}}));
    let config = decode(Driver::Gpu, &mps).unwrap();
    let unsupported = config.require(&at(), &[Feature::TimeSlicing]).unwrap_err();
    assert_eq!(unsupported.feature, Feature::Mps);
    assert_eq!(
        unsupported.to_string(),
        format!(
            "{BASE}.sharing.strategy: \"MPS\" asks for MPS, which this version does not have yet; \
             remove sharing"
        )
    );
    assert_eq!(config.require(&at(), &[Feature::Mps]), Ok(()));
    let slices = of_kind(
        "GpuConfig",
        &json!({"sharing": {"strategy": "TimeSlicing"}}),
    );
    let config = decode(Driver::Gpu, &slices).unwrap();
    assert_eq!(config.require(&at(), available(true)), Ok(()));
    assert_eq!(
        config
            .require(&at(), available(false))
            .unwrap_err()
            .to_string(),
        format!(
            "{BASE}.sharing.strategy: \"TimeSlicing\" asks for time-slicing settings, whose feature \
             gate TimeSlicingSettings is off; switch it on, or remove sharing"
        )
    );
    let config = decode(Driver::Gpu, &of_kind("VfioDeviceConfig", &json!({}))).unwrap();
    assert_eq!(
        config.require(&at(), &[]).unwrap_err().to_string(),
        format!(
            "{BASE}.kind: \"VfioDeviceConfig\" asks for VFIO passthrough, which this version does \
             not have yet; remove the configuration"
        )
    );
    let plain = Config::Gpu(GpuConfig::default());
    assert_eq!(plain.require(&at(), &[]), Ok(()));
}
