//! Reads the cluster by way of `kubectl`: with its configuration, credentials and proxies, whatever they are.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;
use tessera_domain::{Kind, Object, World};
use thiserror::Error;

use crate::args::Asking;

/// Objects of one page of a list.
const PAGE: u32 = 500;

/// How long one answer may take, as kubectl writes it.
const REQUEST: &str = "--request-timeout=30s";

/// Why the cluster could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no kubectl.
    #[error("run {}: put kubectl into the PATH, or name it with --kubectl", .program.display())]
    Program {
        /// What was to be run.
        program: PathBuf,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("kubectl {line}: {told}")]
    Refused {
        /// What was asked.
        line: String,
        /// What it said.
        told: String,
    },
    /// What it answered is not what was asked for.
    #[error("kubectl {line}: the answer is not a list of objects")]
    Unreadable {
        /// What was asked.
        line: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What a cluster answers.
pub trait Cluster {
    /// The answer to a `GET` of this path.
    fn get(&self, path: &str) -> Result<Vec<u8>, ReadError>;
}

/// The user's kubectl.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Kubectl {
    /// As the command line has it.
    pub fn new(asking: &Asking) -> Self {
        let file = asking.kubeconfig.as_ref();
        let file = file.map(|file| format!("--kubeconfig={}", file.display()));
        let context = asking.context.as_ref();
        let context = context.map(|context| format!("--context={context}"));
        Self {
            program: asking.kubectl.clone(),
            arguments: file.into_iter().chain(context).collect(),
        }
    }

    /// The namespace of the context.
    pub fn namespace(&self) -> Result<String, ReadError> {
        let path = "jsonpath={.contexts[0].context.namespace}";
        let told = self.run(&["config", "view", "--minify", "--output", path])?;
        let namespace = String::from_utf8_lossy(&told).trim().to_owned();
        Ok(if namespace.is_empty() {
            "default".to_owned()
        } else {
            namespace
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, ReadError> {
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ReadError::Program {
                program: self.program.clone(),
                source,
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(ReadError::Refused {
            line: arguments.join(" "),
            told: told.trim().to_owned(),
        })
    }
}

impl Cluster for Kubectl {
    fn get(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        self.run(&["get", REQUEST, "--raw", path])
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue", default)]
    rest: Option<String>,
}

/// Everything that decisions about domains are made from.
pub fn read(cluster: &impl Cluster) -> Result<World, ReadError> {
    let mut world = World::default();
    for kind in Kind::ALL {
        world.begin_list(kind);
        let mut rest = String::new();
        loop {
            let path = path(kind, &rest);
            let unreadable = |source| ReadError::Unreadable {
                line: format!("get --raw {path}"),
                source,
            };
            let page: Page = serde_json::from_slice(&cluster.get(&path)?).map_err(&unreadable)?;
            for item in page.items {
                world.apply(Object::read(kind, item).map_err(&unreadable)?);
            }
            rest = page.metadata.rest.unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        world.end_list(kind);
    }
    Ok(world)
}

fn path(kind: Kind, rest: &str) -> String {
    let (list, fields) = match kind {
        Kind::Domain => ("/apis/resource.nvidia.com/v1beta1/computedomains", ""),
        Kind::Template => ("/apis/resource.k8s.io/v1/resourceclaimtemplates", ""),
        Kind::Slice => (
            "/apis/resource.k8s.io/v1/resourceslices",
            "&fieldSelector=spec.driver%3Dcompute-domain.nvidia.com",
        ),
        Kind::Node => ("/api/v1/nodes", ""),
        Kind::Pod => ("/api/v1/pods", ""),
        Kind::Claim => ("/apis/resource.k8s.io/v1/resourceclaims", ""),
        Kind::Clique => ("/apis/tessera-dra.github.io/v1alpha1/nvlinkcliques", ""),
        Kind::Policy => ("/apis/tessera-dra.github.io/v1alpha1/domainpolicies", ""),
    };
    let rest = if rest.is_empty() {
        String::new()
    } else {
        // Tokens are of the letters of base64; of these, three mean something in a query.
        let token = rest
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        format!("&continue={token}")
    };
    format!("{list}?limit={PAGE}{fields}{rest}")
}
