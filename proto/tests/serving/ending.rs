//! How serving ends: calls first, then the registration, then the sockets, each by whom it belongs to.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use tessera_proto::client::connect;
use tessera_proto::dra::v1;
use tessera_proto::health;
use tessera_proto::health::v1::NodeWatchResourcesRequest;
use tessera_proto::{Ending, ServeError, SocketPaths, Sockets, remove_dead_instances};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::running::{
    Driver, GRACE, HANG_UP, LIMIT, NAME, errors, paths, prepare, run, run_with, served, within,
};

#[tokio::test]
async fn a_call_whose_caller_hung_up_runs_to_its_end_before_the_driver_stops() {
    let running = run(GRACE);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    let mut caller = kubelet.clone();
    let call = tokio::spawn(async move { caller.node_prepare_resources(prepare(&["slow"])).await });
    within(running.driver.entered.notified()).await;
    call.abort();
    assert!(within(call).await.unwrap_err().is_cancelled());
    // On the same connection, so its answer comes after the hang-up was noticed.
    kubelet
        .node_prepare_resources(prepare(&["a"]))
        .await
        .unwrap();

    let driver = Arc::clone(&running.driver);
    let stopped = tokio::spawn(running.stop());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!stopped.is_finished(), "a call still runs");
    driver.release.notify_one();
    within(stopped).await.unwrap().unwrap();
    assert_eq!(
        *driver.finished.lock().unwrap(),
        ["uid-of-a", "uid-of-slow"]
    );
}

#[tokio::test]
async fn while_calls_run_on_after_a_stop_the_driver_stays_registered_and_answers() {
    let running = run(GRACE);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    let mut caller = kubelet.clone();
    let call = tokio::spawn(async move { caller.node_prepare_resources(prepare(&["slow"])).await });
    within(running.driver.entered.notified()).await;
    let (paths, driver) = (running.paths.clone(), Arc::clone(&running.driver));
    let stopped = tokio::spawn(running.stop());
    let registration = paths.registration.as_socket_path().as_path();
    tokio::task::yield_now().await;
    let reply = kubelet.node_prepare_resources(prepare(&["a"])).await;
    assert_eq!(errors(reply.unwrap()).len(), 1);
    assert!(registration.exists());
    driver.release.notify_one();
    assert_eq!(errors(within(call).await.unwrap().unwrap()).len(), 1);
    within(stopped).await.unwrap().unwrap();
    assert!(!paths.dra.as_path().exists());
    assert!(!registration.exists());
}

#[tokio::test]
async fn calls_that_do_not_end_are_given_up_after_the_grace_time() {
    let running = run(Duration::from_millis(20));
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    let _call =
        tokio::spawn(async move { kubelet.node_prepare_resources(prepare(&["slow"])).await });
    within(running.driver.entered.notified()).await;
    let paths = running.paths.clone();
    let error = running.stop().await.unwrap_err();
    assert!(matches!(error, ServeError::Unfinished { .. }), "{error}");
    assert!(!paths.dra.as_path().exists());
}

#[tokio::test]
async fn stopping_ends_health_streams_and_unlinks_both_sockets() {
    let running = run(GRACE);
    let client = running.dra().await;
    let mut client = health::v1::dra_resource_health_client::DraResourceHealthClient::new(client);
    let watch = NodeWatchResourcesRequest {};
    let mut reports = client
        .node_watch_resources(watch)
        .await
        .unwrap()
        .into_inner();
    within(reports.message()).await.unwrap().unwrap();
    let paths = running.paths.clone();
    running.stop().await.unwrap();
    assert!(within(reports.message()).await.unwrap().is_none());
    assert!(!paths.dra.as_path().exists());
    assert!(!paths.registration.as_socket_path().as_path().exists());
}

#[tokio::test]
async fn the_dra_socket_is_served_until_the_kubelet_has_hung_up() {
    let running = run_with(GRACE, LIMIT);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    kubelet
        .node_prepare_resources(prepare(&["a"]))
        .await
        .unwrap();
    let paths = running.paths.clone();
    let stopped = tokio::spawn(running.stop());
    let registration = paths.registration.as_socket_path().as_path();
    within(async {
        while registration.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    kubelet
        .node_prepare_resources(prepare(&["b"]))
        .await
        .unwrap();
    assert!(!stopped.is_finished());
    drop(kubelet);
    within(stopped).await.unwrap().unwrap();
    assert!(!paths.dra.as_path().exists());
}

/// Serves the sockets of `owner` in its place, as a process does that it started.
fn serve_in_place_of(
    owner: &Sockets,
    paths: &SocketPaths,
    told: CancellationToken,
    stop: CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    let copies = owner.descriptors().map(|d| d.try_clone_to_owned().unwrap());
    let driving = served(&Arc::new(Driver::default()), Arc::new(|_| {}));
    let ending = Ending {
        told,
        calls: GRACE,
        hang_up: HANG_UP,
    };
    tokio::spawn(Sockets::inherited(paths, copies).serve(driving, stop, ending))
}

#[tokio::test]
async fn inherited_sockets_outlive_a_process_that_fails_and_not_one_that_is_told_to_leave() {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    let owner = Sockets::bind(&paths).unwrap();
    let registration = paths.registration.as_socket_path().as_path();
    let told = CancellationToken::new();

    let failed = CancellationToken::new();
    let first = serve_in_place_of(&owner, &paths, told.clone(), failed.clone());
    failed.cancel();
    within(first).await.unwrap().unwrap();
    assert!(registration.exists() && paths.dra.as_path().exists());
    // Nobody serves now; the call waits for the next process.
    let waiting = tokio::spawn({
        let path = paths.dra.clone();
        async move {
            let channel = connect(&path, LIMIT).await.unwrap();
            let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(channel);
            kubelet.node_prepare_resources(prepare(&["a"])).await
        }
    });
    tokio::task::yield_now().await;
    let second = serve_in_place_of(&owner, &paths, told.clone(), told.clone());
    within(waiting).await.unwrap().unwrap();
    told.cancel();
    within(second).await.unwrap().unwrap();
    assert!(!registration.exists());
    assert!(
        paths.dra.as_path().exists(),
        "it is the owner's to take away"
    );
    drop(owner);
    assert!(!paths.dra.as_path().exists());
}

#[tokio::test]
async fn a_new_instance_leaves_the_sockets_of_a_living_one_alone() {
    let running = run(GRACE);
    let root = running.root.path();
    let registration = running.paths.registration.as_socket_path().as_path();
    let long_ago = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };
    let old = Timestamps {
        last_access: long_ago,
        last_modification: long_ago,
    };
    for path in [registration, running.paths.dra.as_path()] {
        rustix::fs::utimensat(CWD, path, &old, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    remove_dead_instances(&root.join("reg"), &root.join("p"), NAME);
    assert!(running.paths.dra.as_path().exists() && registration.exists());
    running.stop().await.unwrap();
}
