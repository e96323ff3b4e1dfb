//! The cluster's Kubernetes, by way of `kubectl`: as users reach it, with typed answers and a deadline for every wait.

mod object;
mod version;
mod watch;

use std::io::{Seek as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::List;
use serde_json::Value;
use tessera_cluster::{Cluster, interrupt};

pub use object::{Object, Objects, containers, name, restarts, runs, states, uid};
pub(crate) use version::Version;
use watch::QUERY;
pub(crate) use watch::{Heard, Watch};

use crate::failure::Failure;
use crate::lines::{Lines, Next};

/// What one answer of the API server may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// What the end of an object may take: a pod has its grace period, and the kubelet some seconds to clean up.
const DELETE_LIMIT: Duration = Duration::from_mins(1);

/// Where objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// In one namespace.
    Namespace(&'a str),
    /// In the whole cluster.
    Cluster,
}

/// The Kubernetes of a running cluster.
#[derive(Debug, Clone, Copy)]
pub struct Kubernetes<'a> {
    cluster: &'a Cluster,
}

impl<'a> Kubernetes<'a> {
    /// That of `cluster`.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// The cluster that it runs on.
    pub fn cluster(self) -> &'a Cluster {
        self.cluster
    }

    /// The version of the resource API that it has.
    pub(crate) fn version(self) -> Version {
        Version::of(self.cluster.kubernetes())
    }

    /// Creates or changes the objects that `yaml` describes.
    pub fn apply(self, namespace: &str, yaml: &str) -> Result<(), Failure> {
        let mut command = self.kubectl(namespace);
        command.args(["apply", "--filename=-"]);
        run(&mut command, Some(&self.version().write(yaml))).map(drop)
    }

    /// Deletes what `arguments` name (`pod/a`, or `pods --all`) and returns when it is gone.
    pub fn delete(self, namespace: &str, arguments: &[&str]) -> Result<(), Failure> {
        let mut command = self.kubectl(namespace);
        let limit = format!("--timeout={}s", DELETE_LIMIT.as_secs());
        command.args(["delete", "--ignore-not-found", &limit]);
        run(command.args(arguments), None).map(drop)
    }

    /// Merges this into an object by way of its status subresource.
    pub(crate) fn patch_status(
        self,
        namespace: &str,
        kind: &str,
        name: &str,
        status: &Value,
    ) -> Result<(), Failure> {
        let mut command = self.kubectl(namespace);
        command.args(["patch", kind, name, "--subresource=status", "--type=merge"]);
        command.arg(format!("--patch={status}"));
        run(&mut command, None).map(drop)
    }

    /// Has new pods made for what `workload` names (`daemonset/a`), as its update strategy says, and
    /// returns at once.
    pub fn restart(self, namespace: &str, workload: &str) -> Result<(), Failure> {
        let mut command = self.kubectl(namespace);
        run(command.args(["rollout", "restart", workload]), None).map(drop)
    }

    /// Tells the API server to delete a namespace. It takes some seconds to be gone.
    pub fn give_up_namespace(self, namespace: &str) -> Result<(), Failure> {
        let mut command = self.kubectl(namespace);
        run(
            command.args(["delete", "namespace", namespace, "--wait=false"]),
            None,
        )
        .map(drop)
    }

    /// What a container has written so far.
    pub fn log(self, namespace: &str, pod: &str, options: &[&str]) -> Result<String, Failure> {
        let mut command = self.kubectl(namespace);
        run(command.args(["logs", pod]).args(options), None)
    }

    /// What a program writes that is run in a container.
    pub fn execute(
        self,
        namespace: &str,
        pod: &str,
        container: &str,
        program: &[&str],
    ) -> Result<String, Failure> {
        let mut command = self.kubectl(namespace);
        command.args(["exec", pod, "--container", container, "--"]);
        run(command.args(program), None)
    }

    /// The first lines that a container writes, until they are enough. `what` says what they are to tell.
    pub fn lines(
        self,
        namespace: &str,
        container: (&str, &str),
        what: &str,
        limit: Duration,
        enough: impl Fn(&[String]) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let (pod, container) = container;
        let mut command = self.unlimited(namespace);
        command.args(["logs", "--follow", pod, "--container", container]);
        let what = format!("{what} in the log of {pod}/{container}");
        let mut lines = start(&mut command)?;
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        while !enough(&seen) {
            match lines.next(deadline) {
                Next::Line(line) => seen.push(line),
                Next::Late => {
                    let seen = seen.join("\n");
                    return Err(Failure::Slow { what, limit, seen });
                }
                Next::Ended(said) => {
                    let said = format!("{said}\n{}", seen.join("\n"));
                    return Err(Failure::Ended { what, said });
                }
                Next::Interrupted => return Err(Failure::Interrupted),
            }
        }
        Ok(seen)
    }

    /// What people are shown about an object, `pod/a`, say.
    pub fn describe(self, namespace: &str, object: &str) -> Result<String, Failure> {
        let mut command = self.kubectl(namespace);
        run(command.args(["describe", object]), None)
    }

    /// The answer of the API server at this path.
    pub fn raw(self, path: &str) -> Result<String, Failure> {
        let mut command = self.kubectl("default");
        run(command.args(["get", "--raw", path]), None)
    }

    /// The objects of one kind, by name. Where names of several namespaces are equal, see [`items`](Self::items).
    pub fn list<K: Object>(self, scope: Scope<'_>) -> Result<Objects<K>, Failure> {
        let items = self.items(scope)?.into_iter();
        Ok(items.map(|object: K| (name(&object), object)).collect())
    }

    /// The objects of one kind.
    pub(crate) fn items<K: Object>(self, scope: Scope<'_>) -> Result<Vec<K>, Failure> {
        let path = path::<K>(scope, self.version());
        let text = self.version().read(&self.raw(&path)?);
        let list: List<K> = serde_json::from_str(&text).map_err(|reason| Failure::Unreadable {
            line: format!("kubectl get --raw {path}"),
            reason,
        })?;
        Ok(list.items)
    }

    /// Waits until `look` finds what it wants in the objects of one kind, and returns that.
    pub fn wait<K: Object, T>(
        self,
        scope: Scope<'_>,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Objects<K>) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut watch = self.follow(scope)?;
        let deadline = Instant::now() + limit;
        let what = what.to_owned();
        loop {
            match watch.next(deadline) {
                Heard::News => {
                    if let Some(found) = look(watch.objects()) {
                        return Ok(found);
                    }
                }
                Heard::Late => {
                    let seen = states(watch.objects());
                    return Err(Failure::Slow { what, limit, seen });
                }
                Heard::Ended(said) => return Err(Failure::Ended { what, said }),
                Heard::Interrupted => return Err(Failure::Interrupted),
            }
        }
    }

    /// Follows the objects of one kind for as long as the answer lives.
    pub(crate) fn follow<K: Object>(self, scope: Scope<'_>) -> Result<Watch<K>, Failure> {
        let mut command = self.unlimited("default");
        let path = path::<K>(scope, self.version());
        command.args(["get", "--raw", &format!("{path}?{QUERY}")]);
        Ok(Watch::new(start(&mut command)?, self.version()))
    }

    /// What `kubectl` with these arguments answers.
    pub(crate) fn command(
        self,
        namespace: &str,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<String, Failure> {
        run(self.kubectl(namespace).args(arguments), input)
    }

    /// What `kubectl tessera` with these arguments answers.
    pub(crate) fn plugin(
        self,
        namespace: &str,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<String, Failure> {
        let mut command = self.cluster.plugin();
        command.args(arguments).args(["--namespace", namespace]);
        run(&mut command, input)
    }

    /// `kubectl` with a deadline for each answer.
    pub(crate) fn kubectl(self, namespace: &str) -> Command {
        let mut command = self.unlimited(namespace);
        command.arg(format!("--request-timeout={}s", REQUEST_LIMIT.as_secs()));
        command
    }

    /// For streams, whose deadline their reader keeps.
    fn unlimited(self, namespace: &str) -> Command {
        let mut command = self.cluster.kubectl();
        command.args(["--namespace", namespace]);
        command
    }
}

fn path<K: Object>(scope: Scope<'_>, version: Version) -> String {
    let api = match K::GROUP {
        "" => format!("/api/{}", K::VERSION),
        group => format!("/apis/{group}/{}", version.in_path(group, K::VERSION)),
    };
    match scope {
        Scope::Namespace(namespace) => {
            format!("{api}/namespaces/{namespace}/{}", K::URL_PATH_SEGMENT)
        }
        Scope::Cluster => format!("{api}/{}", K::URL_PATH_SEGMENT),
    }
}

/// Runs a program that keeps a deadline of its own.
pub(crate) fn run(command: &mut Command, input: Option<&str>) -> Result<String, Failure> {
    let line = line(command);
    let failed = |reason| Failure::Run {
        line: line.clone(),
        reason,
    };
    command.stdin(Stdio::null());
    if let Some(text) = input {
        let mut file = tempfile::tempfile().map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.rewind().map_err(failed)?;
        command.stdin(file);
    }
    let output = command.output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    if interrupt::requested() {
        return Err(Failure::Interrupted);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::Refused { line, said })
}

fn start(command: &mut Command) -> Result<Lines, Failure> {
    Lines::start(command).map_err(|reason| Failure::Run {
        line: line(command),
        reason,
    })
}

fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let mut arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    let mut words = vec![program];
    while let Some(argument) = arguments.next() {
        if argument == "--kubeconfig" {
            // Always the same, and long.
            arguments.next();
        } else {
            words.push(argument);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
    use tessera_cluster::Release;

    use super::*;

    #[test]
    fn objects_are_found_at_the_paths_of_their_kinds() {
        let ours = Scope::Namespace("ours");
        let [old, new] = [Release::V1_33, Release::V1_36].map(Version::of);
        assert_eq!(path::<Pod>(ours, old), "/api/v1/namespaces/ours/pods");
        assert_eq!(
            path::<ResourceClaim>(ours, new),
            "/apis/resource.k8s.io/v1/namespaces/ours/resourceclaims"
        );
        assert_eq!(
            path::<ResourceSlice>(Scope::Cluster, old),
            "/apis/resource.k8s.io/v1beta2/resourceslices"
        );
    }

    #[test]
    fn a_program_gets_its_input_and_a_failed_one_is_quoted() {
        let echoed = run(&mut Command::new("cat"), Some("text")).unwrap();
        assert_eq!(echoed, "text");
        let mut failing = Command::new("sh");
        let error = run(failing.args(["-c", "echo cause >&2; exit 1"]), None).unwrap_err();
        assert_eq!(error.to_string(), "sh -c echo cause >&2; exit 1: cause");
    }
}
