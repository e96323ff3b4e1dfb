//! The pods of NVLink sessions, and what the others know of them.

use super::*;

#[test]
fn the_session_host_understands_every_variable_of_its_container_and_is_replaced_by_nobody() {
    for objects in everything().unwrap() {
        let Some(set) = session_host_set(objects) else {
            continue;
        };
        let strategy = set.spec.update_strategy.as_ref().unwrap();
        assert_eq!(strategy.type_.as_deref(), Some("OnDelete"));
        let pod = set.spec.template.spec.as_ref().unwrap();
        // nvidia-imex is in its container.
        assert_eq!(pod.containers[0].liveness_probe, None);
        let grace = pod.termination_grace_period_seconds.unwrap();
        let limit = tessera_session::decide::END_LIMIT.as_secs();
        assert!(grace >= i64::try_from(limit).unwrap() + 5);
        let container = Container {
            env: pod.containers[0].env.clone().map(|mut env| {
                // Not a literal: the pod's own address.
                env.retain(|variable| variable.name != "POD_IP");
                env
            }),
            command: Some(vec![
                "tessera-session-host".to_owned(),
                "--pod-ip=10.0.0.1".to_owned(),
            ]),
            ..pod.containers[0].clone()
        };
        understood::<tessera_session_host::args::Args>(&container, &[]);
        // The plugin is told the socket that is served, in a folder of the host that both see.
        let socket = literals(&pod.containers[0])["SESSION_SOCKET"].to_owned();
        let domains = plugin(objects).unwrap().containers.iter();
        let mut domains = domains.filter(|container| container.name == "compute-domains");
        assert_eq!(literals(domains.next().unwrap())["SESSION_SOCKET"], socket);
    }
}

#[test]
fn session_hosts_are_there_where_they_run_the_sessions_and_the_controller_knows_it() {
    for (setting, mode, there) in [
        ("image.tag=dev", "clique", true),
        (
            "resources.computeDomains.imex.mode=driverManaged",
            "clique",
            true,
        ),
        ("resources.computeDomains.imex.mode=domain", "domain", true),
        (
            "resources.computeDomains.imex.mode=hostManaged",
            "hostManaged",
            false,
        ),
        ("resources.computeDomains.enabled=false", "clique", false),
    ] {
        let objects = objects(&Install::default().set(setting)).unwrap();
        assert_eq!(session_host_set(&objects).is_some(), there, "{setting}");
        let named = objects
            .iter()
            .filter(|object| object.name().contains("session-host"));
        assert_eq!(named.count() > 0, there, "{setting}");
        let told = literals(&controller(&objects).unwrap().containers[0])["IMEX_MODE"].to_owned();
        assert_eq!(told, mode, "{setting}");
        let told = plugin(&objects).unwrap().containers.iter();
        let mut told = told.filter(|container| literals(container).contains_key("SESSION_SOCKET"));
        assert_eq!(told.next().is_some(), there, "{setting}");
    }
}

#[test]
fn the_pods_of_sessions_are_found_by_the_references_label_and_those_of_domains_when_they_have_one()
{
    for (mode, label) in [("clique", Some("clique-session")), ("domain", None)] {
        let setting = format!("resources.computeDomains.imex.mode={mode}");
        let objects = objects(&Install::default().set(&setting)).unwrap();
        let pod = &session_host_set(&objects).unwrap().spec.template;
        let labels = pod.metadata.as_ref().unwrap().labels.as_ref().unwrap();
        let found = labels.get("resource.nvidia.com/computeDomain");
        assert_eq!(found.map(String::as_str), label, "{mode}");
        // By these the controller finds them in both.
        assert_eq!(labels["app.kubernetes.io/component"], "session-host");
    }
}

#[test]
fn an_imex_of_the_hosts_is_asked_at_a_socket_in_a_folder_that_the_plugin_sees() {
    let host = "resources.computeDomains.imex.mode=hostManaged";
    let path = "resources.computeDomains.imex.hostSocketPath";
    for (settings, asked) in [
        (host.to_owned(), Some("/etc/nvidia-imex/imex_ctrl.sock")),
        (
            format!("{host},{path}=/run/imex/a.sock"),
            Some("/run/imex/a.sock"),
        ),
        (format!("{host},{path}="), None),
        (format!("{path}=/run/imex/a.sock"), None),
    ] {
        let objects = objects(&Install::default().set(&settings)).unwrap();
        let pod = plugin(&objects).unwrap();
        let mut domains = pod.containers.iter();
        let container = domains.find(|it| it.name == "compute-domains").unwrap();
        let told = literals(container);
        assert_eq!(
            told.get("IMEX_HOST_SOCKET_PATH").copied(),
            asked,
            "{settings}"
        );
        let here = told.get("IMEX_HOST_SOCKET_CTR_PATH").copied();
        let mounts = container.volume_mounts.iter().flatten();
        let mut mounts = mounts.filter(|mount| mount.name == "host-imex");
        let mut volumes = pod.volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == "host-imex");
        let Some(asked) = asked.map(Path::new) else {
            assert_eq!((here, mounts.next(), volume), (None, None, None));
            continue;
        };
        let mount = mounts.next().unwrap();
        assert_eq!(mount.read_only, Some(true));
        let folder = volume.unwrap().host_path.as_ref().unwrap();
        assert_eq!(Path::new(&folder.path), asked.parent().unwrap());
        let here = Path::new(here.unwrap());
        assert_eq!(here.parent(), Some(Path::new(&mount.mount_path)));
        assert_eq!(here.file_name(), asked.file_name());
    }
}

#[test]
fn the_credentials_of_sessions_are_where_they_are_looked_for_and_for_root_alone() {
    let off = objects(&Install::default()).unwrap();
    let tls = |objects: &[Object]| {
        let set = session_host_set(objects).unwrap();
        let pod = set.spec.template.spec.clone().unwrap();
        let volumes = pod.volumes.clone().unwrap_or_default();
        let volume = volumes.into_iter().find(|volume| volume.name == "tls");
        (pod.containers[0].clone(), volume)
    };
    assert_eq!(tls(&off).1, None);
    let settings =
        "sessionHost.tls.enabled=true,sessionHost.tls.secretName=imex,sessionHost.tls.name=a.b";
    let (container, volume) = tls(&objects(&Install::default().set(settings)).unwrap());
    let told = literals(&container);
    let mut mounts = container.volume_mounts.iter().flatten();
    let mount = mounts.find(|mount| mount.name == "tls").unwrap();
    assert_eq!(told["IMEX_TLS_DIRECTORY"], mount.mount_path);
    assert_eq!((mount.read_only, &mount.sub_path), (Some(true), &None));
    assert_eq!(told["IMEX_TLS_NAME"], "a.b");
    let secret = volume.unwrap().secret.unwrap();
    assert_eq!(secret.secret_name.as_deref(), Some("imex"));
    assert_eq!(secret.default_mode, Some(0o400));
    let items = secret.items.unwrap();
    let paths: BTreeSet<&str> = items.iter().map(|item| item.path.as_str()).collect();
    let tls = tessera_session::config::Tls::in_directory(Path::new("/"), "a.b");
    let wanted = tls
        .files()
        .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(paths, wanted.iter().map(String::as_str).collect());
    assert!(items.iter().all(|item| item.mode.is_none()));
}
