//! The slices of one driver on one node, in a real API server.

use futures::stream::BoxStream;
use futures::{StreamExt, future};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use tessera_offer::SliceRef;
use tracing::warn;

use super::Turn;
use super::store::{SliceEvent, SliceStore, StoreError};

/// The API server's slices of one driver on one node.
///
/// Lists and watches select by `spec.nodeName` and `spec.driver`, so that a node never sees the
/// slices of the whole cluster. The watch carries metadata only: an event says that something
/// happened, and the list says what there is.
#[derive(Clone, Debug)]
pub struct KubeSlices {
    slices: Api<ResourceSlice>,
    metadata: Api<PartialObjectMeta<ResourceSlice>>,
    selector: String,
}

impl KubeSlices {
    /// The slices of `driver` on `node`.
    pub fn new(client: kube::Client, node: &str, driver: &str) -> Self {
        Self {
            slices: Api::all(client.clone()),
            metadata: Api::all(client),
            selector: format!("spec.nodeName={node},spec.driver={driver}"),
        }
    }
}

impl SliceStore for KubeSlices {
    async fn list(&self) -> Result<Vec<ResourceSlice>, StoreError> {
        let params = ListParams::default().fields(&self.selector);
        let list = self.slices.list(&params).await;
        list.map(|list| list.items).map_err(|error| refusal(&error))
    }

    async fn create(&self, slice: &ResourceSlice, _: &Turn) -> Result<ResourceSlice, StoreError> {
        let stored = self.slices.create(&PostParams::default(), slice).await;
        stored.map_err(|error| refusal(&error))
    }

    async fn replace(&self, slice: &ResourceSlice, _: &Turn) -> Result<ResourceSlice, StoreError> {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let params = PostParams::default();
        let stored = self.slices.replace(name, &params, slice).await;
        stored.map_err(|error| refusal(&error))
    }

    async fn delete(&self, slice: &SliceRef, _: &Turn) -> Result<(), StoreError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: slice.uid.clone(),
                resource_version: slice.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let deleted = self.slices.delete(&slice.name, &params).await;
        deleted.map(drop).map_err(|error| refusal(&error))
    }

    fn watch(&self) -> BoxStream<'static, SliceEvent> {
        let config = watcher::Config::default().fields(&self.selector);
        watcher(self.metadata.clone(), config)
            .take_while(|event| future::ready(is_whole(event)))
            .filter_map(|event| future::ready(heard(event)))
            .boxed()
    }
}

/// Whether the watch goes on after this. One that broke off is begun anew, with a list.
fn is_whole(event: &watcher::Result<Event<PartialObjectMeta<ResourceSlice>>>) -> bool {
    let Err(error) = event else {
        return true;
    };
    warn!(%error, "the watch of ResourceSlices broke off; it is opened again");
    false
}

/// The list that a watch begins with is told as one event, when it is complete.
fn heard(event: watcher::Result<Event<PartialObjectMeta<ResourceSlice>>>) -> Option<SliceEvent> {
    match event {
        Ok(Event::InitDone) => Some(SliceEvent::Relisted),
        Ok(Event::Init | Event::InitApply(_)) => None,
        Ok(Event::Apply(object)) => Some(SliceEvent::Stored {
            name: object.metadata.name.unwrap_or_default(),
            version: object.metadata.resource_version.unwrap_or_default(),
        }),
        Ok(Event::Delete(object)) => Some(SliceEvent::Deleted {
            name: object.metadata.name.unwrap_or_default(),
        }),
        Err(_the_last) => None,
    }
}

fn refusal(error: &kube::Error) -> StoreError {
    let kube::Error::Api(status) = error else {
        return StoreError::Unavailable(error.to_string());
    };
    let message = status.message.clone();
    match status.code {
        409 => StoreError::Conflict(message),
        404 | 410 => StoreError::Missing(message),
        401 | 403 => StoreError::Forbidden(message),
        400 | 422 => StoreError::Invalid(message),
        _ => StoreError::Unavailable(message),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn an_answer_of_the_server_is_classed_by_its_code() {
        for (code, reason) in [
            (400, "invalid"),
            (401, "forbidden"),
            (403, "forbidden"),
            (404, "missing"),
            (409, "conflict"),
            (422, "invalid"),
            (429, "unavailable"),
            (500, "unavailable"),
            (503, "unavailable"),
        ] {
            let status = Status::failure("because", "").with_code(code).boxed();
            let refused = refusal(&kube::Error::Api(status));
            assert_eq!(refused.reason(), reason, "{code}");
            assert!(refused.to_string().contains("because"), "{refused}");
        }
    }

    #[test]
    fn a_watch_tells_its_first_list_as_one_event() {
        let object: PartialObjectMeta<ResourceSlice> = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "resourceVersion": "7"},
        }))
        .unwrap();
        let name = "a".to_owned();
        for (event, expected) in [
            (Event::Init, None),
            (Event::InitApply(object.clone()), None),
            (Event::InitDone, Some(SliceEvent::Relisted)),
            (
                Event::Apply(object.clone()),
                Some(SliceEvent::Stored {
                    name: name.clone(),
                    version: "7".to_owned(),
                }),
            ),
            (Event::Delete(object), Some(SliceEvent::Deleted { name })),
        ] {
            assert_eq!(heard(Ok(event)), expected);
        }
        assert!(!is_whole(&Err(watcher::Error::NoResourceVersion)));
        assert!(is_whole(&Ok(Event::InitDone)));
    }
}
