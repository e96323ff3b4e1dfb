//! The slices of one driver on one node, in a real API server.

use futures::stream::{self, BoxStream};
use futures::{StreamExt, future};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use tessera_offer::SliceRef;
use tessera_resource_api::{Version, slice_from, slice_in};
use tessera_shell::logging::chain;
use tessera_shell::resource_api::{Kind, ResourceApi, resource};
use tracing::warn;

use super::Turn;
use super::store::{Rehearsal, SliceEvent, SliceStore, StoreError};

/// The API server's slices of one driver on one node, in whichever version it serves them.
///
/// Lists and watches select by `spec.nodeName` and `spec.driver`, so that a node never sees the
/// slices of the whole cluster. The watch carries metadata only: an event says that something
/// happened, and the list says what there is.
#[derive(Clone)]
pub struct KubeSlices {
    api: ResourceApi,
    selector: String,
}

impl KubeSlices {
    /// The slices of `driver` on `node`.
    pub fn new(api: ResourceApi, node: &str, driver: &str) -> Self {
        Self {
            api,
            selector: format!("spec.nodeName={node},spec.driver={driver}"),
        }
    }

    async fn slices(&self) -> Result<(Version, Api<DynamicObject>), StoreError> {
        let slices = self.api.objects(Kind::Slice).await;
        slices.map_err(|error| refusal(&error))
    }

    fn refused(&self, version: Version) -> impl FnOnce(kube::Error) -> StoreError {
        move |error| {
            if self.api.notice(version, &error) {
                return StoreError::Unavailable(format!("{version} is not served any more"));
            }
            refusal(&error)
        }
    }
}

impl SliceStore for KubeSlices {
    async fn list(&self) -> Result<Vec<ResourceSlice>, StoreError> {
        let (version, slices) = self.slices().await?;
        let params = ListParams::default().fields(&self.selector);
        let list = slices.list(&params).await.map_err(self.refused(version))?;
        list.items.into_iter().map(|it| read(version, it)).collect()
    }

    async fn rehearse(&self, write: Rehearsal<'_>) -> Result<ResourceSlice, StoreError> {
        let (version, slices) = self.slices().await?;
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let answer = match write {
            Rehearsal::Create(slice) => slices.create(&params, &written(version, slice)?).await,
            Rehearsal::Replace(slice) => {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                slices
                    .replace(name, &params, &written(version, slice)?)
                    .await
            }
        };
        read(version, answer.map_err(self.refused(version))?)
    }

    async fn create(&self, slice: &ResourceSlice, _: &Turn) -> Result<ResourceSlice, StoreError> {
        let (version, slices) = self.slices().await?;
        let object = written(version, slice)?;
        let stored = slices.create(&PostParams::default(), &object).await;
        read(version, stored.map_err(self.refused(version))?)
    }

    async fn replace(&self, slice: &ResourceSlice, _: &Turn) -> Result<ResourceSlice, StoreError> {
        let (version, slices) = self.slices().await?;
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let object = written(version, slice)?;
        let stored = slices.replace(name, &PostParams::default(), &object).await;
        read(version, stored.map_err(self.refused(version))?)
    }

    async fn delete(&self, slice: &SliceRef, _: &Turn) -> Result<(), StoreError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: slice.uid.clone(),
                resource_version: slice.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let (version, slices) = self.slices().await?;
        let deleted = slices.delete(&slice.name, &params).await;
        deleted.map(drop).map_err(self.refused(version))
    }

    fn watch(&self) -> BoxStream<'static, SliceEvent> {
        let (api, config) = (
            self.api.clone(),
            watcher::Config::default().fields(&self.selector),
        );
        let version = async move {
            let version = api.version().await;
            let version = version.inspect_err(|error| {
                warn!(%error, "the API server does not say what it serves; it is asked again");
            });
            version.ok().map(|version| (api, version))
        };
        stream::once(version)
            .filter_map(future::ready)
            .flat_map(move |(api, version)| watched(&api, version, config.clone()))
            .boxed()
    }
}

fn watched(
    api: &ResourceApi,
    version: Version,
    config: watcher::Config,
) -> BoxStream<'static, SliceEvent> {
    let metadata: Api<PartialObjectMeta<DynamicObject>> =
        Api::all_with(api.client().clone(), &resource(version, Kind::Slice));
    let api = api.clone();
    watcher(metadata, config)
        .inspect(move |event| {
            if let Err(
                watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error),
            ) = event
            {
                api.notice(version, error);
            }
        })
        .take_while(|event| future::ready(is_whole(event)))
        .filter_map(|event| future::ready(heard(event)))
        .boxed()
}

/// The slice as the server takes it.
fn written(version: Version, slice: &ResourceSlice) -> Result<DynamicObject, StoreError> {
    let object = serde_json::from_value(slice_in(version, slice));
    object.map_err(|error| StoreError::Invalid(error.to_string()))
}

/// The slice that the server sent.
fn read(version: Version, object: DynamicObject) -> Result<ResourceSlice, StoreError> {
    let unreadable =
        |error: &dyn std::error::Error| StoreError::Unavailable(chain(error).to_string());
    let object = serde_json::to_value(object).map_err(|error| unreadable(&error))?;
    slice_from(version, object).map_err(|error| unreadable(&error))
}

/// Whether the watch goes on after this. One that broke off is begun anew, with a list.
fn is_whole(event: &watcher::Result<Event<PartialObjectMeta<DynamicObject>>>) -> bool {
    let Err(error) = event else {
        return true;
    };
    warn!(%error, "the watch of ResourceSlices broke off; it is opened again");
    false
}

/// The list that a watch begins with is told as one event, when it is complete.
fn heard(event: watcher::Result<Event<PartialObjectMeta<DynamicObject>>>) -> Option<SliceEvent> {
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
        let object: PartialObjectMeta<DynamicObject> = serde_json::from_value(serde_json::json!({
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
