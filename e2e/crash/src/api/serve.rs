//! HTTP around the store.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Shared;
use super::store::Refusal;
use crate::fuse::{Kind, When};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Collection(&'a str),
    Object(&'a str, &'a str),
}

pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    let router = Router::new().fallback(answer).with_state(shared);
    // It ends only with its runtime.
    let _ = axum::serve(listener, router).await;
}

/// Has the request its effect, unless the caller dies of it.
async fn answer(
    State(shared): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let what = format!("{method} {}", uri.path());
    shared.store().requests.push(what.clone());
    let fatal = shared.fuse.pass(Kind::Request, || what.clone());
    if fatal == Some(When::Before) {
        shared.fuse.kill();
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = act(&shared, &method, &uri, &headers, &body);
    if fatal == Some(When::After) {
        shared.fuse.kill();
    }
    answer
}

fn act(shared: &Shared, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response {
    let query: BTreeMap<_, _> =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
    let selector = query.get("fieldSelector").map_or("", |selector| selector);
    let dry_run = query.contains_key("dryRun");
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let slim = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("as=PartialObjectMetadata"));
    if uri.path() == "/apis/resource.k8s.io" {
        return response(StatusCode::OK, group().to_string());
    }
    let outcome = match (method, target(uri.path())) {
        (&Method::GET, Some(Target::Collection(collection))) if query.contains_key("watch") => {
            let from = query.get("resourceVersion").and_then(|v| v.parse().ok());
            return watch(shared, collection, selector, from.unwrap_or_default(), slim);
        }
        (&Method::GET, Some(Target::Collection(collection))) => {
            let (version, objects) = shared.store().list(collection, selector);
            let items: Vec<_> = objects.into_iter().map(|o| shown(o, slim)).collect();
            Ok(json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": version.to_string()}, "items": items}))
        }
        (&Method::GET, Some(Target::Object(collection, name))) => shared
            .store()
            .get(collection, name)
            .map(|object| shown(object, slim)),
        (&Method::POST, Some(Target::Collection(collection))) => {
            shared.store().create(collection, sent, dry_run)
        }
        (&Method::PUT, Some(Target::Object(collection, _))) => {
            shared.store().replace(collection, sent, dry_run)
        }
        (&Method::PATCH, Some(Target::Object(collection, name)))
            if headers
                .get(header::CONTENT_TYPE)
                .is_some_and(is_merge_patch) =>
        {
            shared.store().patch(collection, name, &sent, dry_run)
        }
        (&Method::DELETE, Some(Target::Object(collection, name))) => {
            let deleted = shared
                .store()
                .delete(collection, name, &sent["preconditions"]);
            deleted.map(|()| json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        _ => {
            shared.store().unserved = Some(format!("{method} {uri}"));
            Err(Refusal::NotFound)
        }
    };
    match outcome {
        Ok(value) => response(StatusCode::OK, value.to_string()),
        Err(refusal) => response(
            StatusCode::from_u16(refusal.code()).unwrap_or_default(),
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": refusal.reason(), "code": refusal.code(),
                "message": format!("{method} {}: {}", uri.path(), refusal.reason())})
            .to_string(),
        ),
    }
}

/// The versions of the resource API that are served here.
fn group() -> Value {
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": "resource.k8s.io",
        "versions": [{"groupVersion": "resource.k8s.io/v1", "version": "v1"}]})
}

/// The other kinds of patches have other rules.
fn is_merge_patch(kind: &HeaderValue) -> bool {
    kind == "application/merge-patch+json"
}

/// Everything since a version, and from then on whatever happens, one line each.
fn watch(shared: &Shared, collection: &str, selector: &str, from: u64, slim: bool) -> Response {
    let (collection, selector) = (collection.to_owned(), selector.to_owned());
    let shared = shared.clone();
    let versions = shared.store().version();
    let lines = stream::unfold((from, versions), move |(from, mut versions)| {
        let (shared, collection, selector) = (shared.clone(), collection.clone(), selector.clone());
        async move {
            loop {
                let version = *versions.borrow_and_update();
                let news = shared.store().since(&collection, &selector, from);
                if !news.is_empty() {
                    let line = |event: super::store::Event| {
                        let object = shown(event.object, slim);
                        json!({"type": event.kind, "object": object}).to_string() + "\n"
                    };
                    let lines: String = news.into_iter().map(line).collect();
                    return Some((lines, (version, versions)));
                }
                versions.changed().await.ok()?;
            }
        }
    });
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An object, or its metadata alone.
fn shown(object: Value, slim: bool) -> Value {
    if !slim {
        return object;
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"]})
}

fn response(code: StatusCode, body: String) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// `/api/<version>` or `/apis/<group>/<version>`, then perhaps a namespace, then a resource and perhaps a name.
fn target(path: &str) -> Option<Target<'_>> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let prefix = match *parts.first()? {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    let resource = match parts.get(prefix..)? {
        ["namespaces", _, _, ..] => prefix + 2,
        _ => prefix,
    };
    match parts.get(resource..)? {
        [_] => Some(Target::Collection(path)),
        [_, name] => Some(Target::Object(
            path.strip_suffix(name)?.strip_suffix('/')?,
            name,
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_collection_or_an_object_in_it() {
        let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
        assert_eq!(target(claims), Some(Target::Collection(claims)));
        let claim = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/a";
        assert_eq!(target(claim), Some(Target::Object(claims, "a")));
        assert_eq!(
            target("/api/v1/nodes/n"),
            Some(Target::Object("/api/v1/nodes", "n"))
        );
        for other in [
            "/version",
            "/api",
            "/apis/resource.k8s.io/v1",
            "/api/v1/nodes/n/status",
        ] {
            assert_eq!(target(other), None, "{other}");
        }
    }
}
