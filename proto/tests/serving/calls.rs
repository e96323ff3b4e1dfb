//! Calls on the DRA socket, and that each is answered whole.

use std::collections::BTreeMap;
use std::time::Duration;

use tessera_proto::dra::v1::NodeUnprepareResourcesRequest;
use tessera_proto::dra::{v1, v1beta1};
use tessera_proto::health;
use tessera_proto::health::v1::NodeWatchResourcesRequest;

use super::running::{GRACE, claim, errors, prepare, run, within};

#[tokio::test]
async fn both_versions_of_both_services_answer_on_the_dra_socket() {
    let running = run(GRACE);
    let channel = running.dra().await;
    let wanted = BTreeMap::from([("uid-of-a".to_owned(), "45s".to_owned())]);
    let unprepare = NodeUnprepareResourcesRequest {
        claims: vec![claim("a")],
    };

    let mut newer = v1::dra_plugin_client::DraPluginClient::new(channel.clone());
    let reply = newer.node_prepare_resources(prepare(&["a"])).await.unwrap();
    assert_eq!(errors(reply).into_keys().collect::<Vec<_>>(), ["uid-of-a"]);
    let reply = newer.node_unprepare_resources(unprepare.clone()).await;
    assert_eq!(reply.unwrap().into_inner().claims["uid-of-a"].error, "");

    let mut older = v1beta1::dra_plugin_client::DraPluginClient::new(channel.clone());
    let mut request = tonic::Request::new(prepare(&["a"]));
    request.set_timeout(Duration::from_hours(1));
    let reply = older.node_prepare_resources(request).await.unwrap();
    assert_eq!(
        errors(reply),
        wanted,
        "the deadline is the kubelet's at most"
    );
    let reply = older.node_unprepare_resources(unprepare).await;
    assert_eq!(reply.unwrap().into_inner().claims["uid-of-a"].error, "");

    let watch = NodeWatchResourcesRequest {};
    let mut newer =
        health::v1::dra_resource_health_client::DraResourceHealthClient::new(channel.clone());
    let mut reports = newer
        .node_watch_resources(watch)
        .await
        .unwrap()
        .into_inner();
    let report = within(reports.message()).await.unwrap().unwrap();
    assert_eq!(report.devices[0].message, "fine");
    let mut older =
        health::v1alpha1::dra_resource_health_client::DraResourceHealthClient::new(channel);
    let mut reports = older
        .node_watch_resources(watch)
        .await
        .unwrap()
        .into_inner();
    let report = within(reports.message()).await.unwrap().unwrap();
    assert_eq!(report.devices[0].message, "fine");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn every_claim_has_an_outcome_whatever_the_driver_does() {
    let running = run(GRACE);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    for names in [&["a", "forgotten"][..], &["a", "panics"]] {
        let reply = kubelet
            .node_prepare_resources(prepare(names))
            .await
            .unwrap();
        let errors = errors(reply);
        assert_eq!(errors.len(), 2, "{errors:?}");
        let error = &errors[&claim(names[1]).uid];
        assert!(error.contains("without an outcome"), "{error}");
    }
    running.stop().await.unwrap();
}
