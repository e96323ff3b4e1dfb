//! The messages on the wire, against bytes encoded by hand from the kubelet's field numbers.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fmt::Debug;

use prost::Message;
use tessera_proto::dra::v1::{
    Claim, Device, NodePrepareResourceResponse, NodePrepareResourcesRequest,
    NodePrepareResourcesResponse, NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse,
};
use tessera_proto::health::v1::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest,
    NodeWatchResourcesResponse,
};
use tessera_proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// A length-delimited field: number, length, content. Short enough for one byte each.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = u8::try_from(content.len()).unwrap();
    assert!(number < 16 && length < 128);
    [&[number << 3 | 2, length], content].concat()
}

/// An integer field with a value below 128.
fn number(field: u8, value: u8) -> Vec<u8> {
    assert!(field < 16 && value < 128);
    vec![field << 3, value]
}

#[track_caller]
fn check<M: Message + Default + PartialEq + Debug>(message: &M, bytes: &[Vec<u8>]) {
    let bytes = bytes.concat();
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(M::decode(&bytes[..]).as_ref(), Ok(message));
}

fn claim() -> (Claim, Vec<u8>) {
    let claim = Claim {
        namespace: "ns".to_owned(),
        uid: "u-1".to_owned(),
        name: "c".to_owned(),
    };
    (
        claim,
        [field(1, "ns"), field(2, "u-1"), field(3, "c")].concat(),
    )
}

#[test]
fn a_claim_has_its_uid_before_its_name() {
    let (claim, bytes) = claim();
    check(&claim, &[bytes]);
}

#[test]
fn requests_list_claims_in_field_1() {
    let (claim, bytes) = claim();
    let claims = vec![claim.clone(), claim];
    let wire = [field(1, &bytes), field(1, &bytes)];
    check(
        &NodePrepareResourcesRequest {
            claims: claims.clone(),
        },
        &wire,
    );
    check(&NodeUnprepareResourcesRequest { claims }, &wire);
}

#[test]
fn a_device_carries_its_share_in_field_5_only_if_it_has_one() {
    let device = Device {
        request_names: vec!["gpu".to_owned(), "other".to_owned()],
        pool_name: "node-1".to_owned(),
        device_name: "gpu-0".to_owned(),
        cdi_device_ids: vec!["k8s.gpu.nvidia.com/claim=u-1-gpu-0".to_owned()],
        share_id: None,
    };
    let mut wire = vec![
        field(1, "gpu"),
        field(1, "other"),
        field(2, "node-1"),
        field(3, "gpu-0"),
        field(4, "k8s.gpu.nvidia.com/claim=u-1-gpu-0"),
    ];
    check(&device, &wire);
    wire.push(field(5, ""));
    check(
        &Device {
            share_id: Some(String::new()),
            ..device
        },
        &wire,
    );
}

#[test]
fn replies_are_maps_from_claim_uid_to_outcome() {
    let device = Device {
        device_name: "gpu-0".to_owned(),
        ..Device::default()
    };
    let prepared = NodePrepareResourceResponse {
        devices: vec![device],
        error: "e".to_owned(),
    };
    let prepared_bytes = [field(1, field(3, "gpu-0")), field(2, "e")].concat();
    check(&prepared, std::slice::from_ref(&prepared_bytes));
    check(
        &NodePrepareResourcesResponse {
            claims: BTreeMap::from([("u-1".to_owned(), prepared)]),
        },
        &[field(
            1,
            [field(1, "u-1"), field(2, prepared_bytes)].concat(),
        )],
    );

    let unprepared = NodeUnprepareResourceResponse {
        error: "e".to_owned(),
    };
    check(&unprepared, &[field(1, "e")]);
    check(
        &NodeUnprepareResourcesResponse {
            claims: BTreeMap::from([("u-1".to_owned(), unprepared)]),
        },
        &[field(
            1,
            [field(1, "u-1"), field(2, field(1, "e"))].concat(),
        )],
    );
}

#[test]
fn plugin_info_and_registration_status_have_the_kubelets_numbers() {
    check(
        &PluginInfo {
            r#type: "DRAPlugin".to_owned(),
            name: "gpu.nvidia.com".to_owned(),
            endpoint: "/dra.sock".to_owned(),
            supported_versions: vec!["v1.DRAPlugin".to_owned(), "v1beta1.DRAPlugin".to_owned()],
        },
        &[
            field(1, "DRAPlugin"),
            field(2, "gpu.nvidia.com"),
            field(3, "/dra.sock"),
            field(4, "v1.DRAPlugin"),
            field(4, "v1beta1.DRAPlugin"),
        ],
    );
    check(
        &RegistrationStatus {
            plugin_registered: true,
            error: "e".to_owned(),
        },
        &[number(1, 1), field(2, "e")],
    );
    check(&InfoRequest {}, &[]);
    check(&RegistrationStatusResponse {}, &[]);
}

#[test]
fn a_health_report_has_the_kubelets_numbers() {
    let mut report = NodeWatchResourcesResponse {
        devices: vec![DeviceHealth {
            device: Some(DeviceIdentifier {
                pool_name: "node-1".to_owned(),
                device_name: "gpu-0".to_owned(),
            }),
            health: HealthStatus::Healthy.into(),
            last_updated_time: 7,
            health_check_timeout_seconds: 90,
            message: "ok".to_owned(),
        }],
    };
    let wire = |health: u8| {
        let device = [field(1, "node-1"), field(2, "gpu-0")].concat();
        let entry = [
            field(1, device),
            number(2, health),
            number(3, 7),
            number(4, 90),
            field(5, "ok"),
        ];
        [field(1, entry.concat())]
    };
    check(&report, &wire(1));
    report.devices[0].health = HealthStatus::Unhealthy.into();
    check(&report, &wire(2));
    assert_eq!(i32::from(HealthStatus::Unknown), 0);
    check(&NodeWatchResourcesRequest {}, &[]);
}
