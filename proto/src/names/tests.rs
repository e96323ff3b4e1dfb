use proptest::prelude::*;

use super::*;

const UID: &str = "5dcdd1a3-5d1a-4b4a-9c4c-0b1a2c3d4e5f";

/// What the kubelet's gRPC client makes of a path: bytes that an authority may have stay, the rest
/// is percent-encoded (grpc-go, `encodeAuthority`).
fn encode_authority(path: &str) -> String {
    path.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]@".contains(&b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

fn paths(pod_uid: Option<&str>) -> SocketPaths {
    SocketPaths::new(
        Path::new("/var/lib/kubelet/plugins_registry"),
        Path::new("/var/lib/kubelet/plugins"),
        "compute-domain.nvidia.com",
        pod_uid,
    )
    .unwrap()
}

#[test]
fn the_only_instance_has_plain_names() {
    let paths = paths(None);
    assert_eq!(
        paths.registration.as_socket_path().as_str(),
        "/var/lib/kubelet/plugins_registry/compute-domain.nvidia.com@reg.sock"
    );
    assert_eq!(
        paths.dra.as_str(),
        "/var/lib/kubelet/plugins/compute-domain.nvidia.com/dra@v1.sock"
    );
}

#[test]
fn an_instance_of_a_rolling_update_has_its_pod_uid_in_both_names() {
    let paths = paths(Some(UID));
    assert_eq!(
        paths.registration.as_socket_path().as_str(),
        format!("/var/lib/kubelet/plugins_registry/compute-domain.nvidia.com-{UID}@reg.sock")
    );
    assert!(paths.dra.as_str().ends_with(&format!("/dra-{UID}@v1.sock")));
}

#[test]
fn a_path_that_the_whole_uid_makes_too_long_has_the_beginning_of_it() {
    let kubelet = Path::new("/var/snap/microk8s/common/var/lib/kubelet");
    let paths = |pod_uid| {
        let (registrar, plugins) = (kubelet.join("plugins_registry"), kubelet.join("plugins"));
        SocketPaths::new(&registrar, &plugins, "compute-domain.nvidia.com", pod_uid)
    };
    let found = paths(Some(UID)).unwrap();
    let registration = found.registration.as_socket_path().as_str();
    let name = "/compute-domain.nvidia.com-5dcdd1a3@reg.sock";
    assert!(registration.ends_with(name), "{registration}");
    let dra = found.dra.as_str();
    assert!(dra.ends_with("/dra-5dcdd1a3@v1.sock"), "{dra}");
    assert!(matches!(paths(Some("no uid")), Err(NameError::PodUid(_))));
}

#[test]
fn the_sockets_of_every_instance_are_known_by_their_names_and_no_others() {
    for uid in [None, Some(UID), Some("5dcdd1a3")] {
        let name = RegistrationSocketName::new("gpu.nvidia.com", uid).unwrap();
        assert!(is_registration_socket("gpu.nvidia.com", name.as_str()));
        assert!(is_dra_socket(&dra_name(uid)));
    }
    for name in [
        "",
        "gpu.nvidia.com",
        "gpu.nvidia.com-reg.sock",
        "gpu.nvidia.com-@reg.sock",
        "gpu.nvidia.com.evil@reg.sock",
        "other.nvidia.com@reg.sock",
        "gpu.nvidia.com-a.b@reg.sock",
    ] {
        assert!(!is_registration_socket("gpu.nvidia.com", name), "{name}");
    }
    for name in [
        "dra.sock",
        "dra@reg.sock",
        "drab@v1.sock",
        "dra-@v1.sock",
        "@v1.sock",
    ] {
        assert!(!is_dra_socket(name), "{name}");
    }
}

#[test]
fn names_that_the_kubelet_cannot_register_are_refused() {
    for name in [
        "",
        "gpu.nvidia.com-reg.sock",
        "gpu.nvidia.com@",
        "@reg.sock",
        "gpu[@reg.sock",
        "a@b@reg.sock",
        "gpu@reg%sock",
        "gpu@reg sock",
        "gpu@reg/sock",
        "gpu@reg:sock",
        "gpu@r\u{e9}g.sock",
        ".gpu@reg.sock",
        "dir/gpu@reg.sock",
    ] {
        let error = name.parse::<RegistrationSocketName>().unwrap_err();
        assert_eq!(error, NameError::Socket(name.to_owned()));
    }
    for driver in [
        "",
        ".",
        "GPU.nvidia.com",
        "gpu@nvidia.com",
        "a..b",
        "-a",
        &"a".repeat(64),
    ] {
        let error = RegistrationSocketName::new(driver, None).unwrap_err();
        assert_eq!(error, NameError::Driver(driver.to_owned()));
    }
    for uid in ["", "a/b", "a@b", "a.b"] {
        let error = RegistrationSocketName::new("gpu.nvidia.com", Some(uid)).unwrap_err();
        assert_eq!(error, NameError::PodUid(uid.to_owned()));
    }
}

#[test]
fn a_registration_directory_that_spoils_the_authority_is_refused() {
    let name = RegistrationSocketName::new("gpu.nvidia.com", None).unwrap();
    for directory in ["/srv/k@1", "/srv/k:1", "/srv/[k", "/srv/k]"] {
        assert_eq!(
            RegistrationSocketPath::new(Path::new(directory), &name),
            Err(NameError::Directory(directory.to_owned()))
        );
    }
}

#[test]
fn the_ordinary_name_is_what_the_authority_parser_refuses() {
    let authority = encode_authority("/var/lib/kubelet/plugins_registry/gpu.nvidia.com-reg.sock");
    assert!(authority.parse::<http::uri::Authority>().is_err());
}

proptest! {
    #[test]
    fn every_accepted_path_gives_an_authority_that_is_accepted(
        directory in "(/[a-z0-9 .%@:\\[\\]~!$&'()*+,;=\u{e9}-]{1,8}){1,4}",
        name in "[A-Za-z0-9._-]{1,12}@[A-Za-z0-9._-]{1,12}",
    ) {
        let Ok(name) = name.parse::<RegistrationSocketName>() else {
            prop_assert!(name.starts_with('.'), "{} is refused", name);
            return Ok(());
        };
        if let Ok(path) = RegistrationSocketPath::new(Path::new(&directory), &name) {
            let authority = encode_authority(path.as_socket_path().as_str());
            prop_assert!(authority.parse::<http::uri::Authority>().is_ok(), "{}", authority);
        }
    }
}
