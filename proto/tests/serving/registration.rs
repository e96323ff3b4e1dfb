//! How the driver hears of its registration, and of who connects without being able to register it.

use std::path::Path;

use tessera_proto::RegistrationEvent;
use tessera_proto::client::connect;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::pluginregistration::{InfoRequest, RegistrationStatus};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::running::{GRACE, LIMIT, Running, run, within};

#[tokio::test]
async fn the_kubelet_registers_the_driver_and_the_driver_hears_of_it() {
    let mut running = run(GRACE);
    let mut kubelet = RegistrationClient::new(running.registration().await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.r#type, "DRAPlugin");
    assert_eq!(info.name, "gpu.nvidia.com");
    assert_eq!(info.endpoint, running.paths.dra.as_str());
    assert_eq!(info.supported_versions[0], "v1.DRAPlugin");
    assert_eq!(running.next_event().await, RegistrationEvent::InfoRead);
    for (plugin_registered, error, event) in [
        (true, "", RegistrationEvent::Registered),
        (
            false,
            "no",
            RegistrationEvent::Refused {
                reason: "no".to_owned(),
            },
        ),
    ] {
        let error = error.to_owned();
        let status = RegistrationStatus {
            plugin_registered,
            error,
        };
        kubelet.notify_registration_status(status).await.unwrap();
        assert_eq!(running.next_event().await, event);
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_without_a_request_is_reported_and_one_with_a_request_is_not() {
    let mut running = run(GRACE);
    let registration = running.paths.registration.as_socket_path().as_path();
    drop(UnixStream::connect(registration).await.unwrap());
    let mut kubelet = RegistrationClient::new(running.registration().await);
    kubelet.get_info(InfoRequest {}).await.unwrap();
    let mut silent = UnixStream::connect(registration).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    assert_eq!(running.next_event().await, RegistrationEvent::InfoRead);
    let event = running.next_event().await;
    assert!(
        matches!(event, RegistrationEvent::Unheard { .. }),
        "{event}"
    );
    assert!(event.to_string().contains("RegisterPlugin"), "{event}");
    drop((silent, kubelet));
    let Running {
        stop,
        server,
        mut events,
        ..
    } = running;
    stop.cancel();
    within(server).await.unwrap().unwrap();
    assert_eq!(
        within(events.recv()).await,
        None,
        "only one connection was unheard"
    );
}

#[tokio::test]
async fn a_stranger_never_reaches_a_handler() {
    // Only root can become a stranger; the rule itself is tested without that.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut running = run(GRACE);
    let registration = running.paths.registration.as_socket_path().clone();
    open_to_everybody(running.root.path(), registration.as_path());
    let answer = std::thread::spawn(move || {
        let nobody = rustix::thread::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let channel = connect(&registration, LIMIT).await?;
                let mut client = RegistrationClient::new(channel);
                client.get_info(InfoRequest {}).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
    });
    let answer = within(tokio::task::spawn_blocking(move || answer.join().unwrap())).await;
    answer.unwrap().unwrap_err();
    assert!(running.events.try_recv().is_err());
    running.stop().await.unwrap();
}

/// Takes file modes out of the way, so that only the check of the peer is left.
fn open_to_everybody(root: &Path, socket: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for path in socket.ancestors().take_while(|path| path.starts_with(root)) {
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(path, everybody).unwrap();
    }
}
