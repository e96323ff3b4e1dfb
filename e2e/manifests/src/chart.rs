//! Runs Helm on the chart of this repository.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use serde_yaml_ng::Value;

/// Names the Helm program to run.
pub const HELM: &str = "TESSERA_HELM";

/// The Kubernetes that charts are rendered for, where a test does not say otherwise.
pub const KUBERNETES: &str = "1.36.3";

/// The namespace and the release of the documented installation.
pub const RELEASE: &str = "tessera";

/// Why nothing was rendered.
#[derive(thiserror::Error)]
pub enum RenderError {
    /// No Helm is at hand.
    #[error("{HELM} does not name a helm program: run these tests through `cargo xtask test`")]
    FindHelm,
    /// Helm could not be started.
    #[error("start {program}")]
    StartHelm {
        /// What [`HELM`] names.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Helm refused the chart or the values.
    #[error("helm: {0}")]
    Refused(String),
    /// The output is no YAML.
    #[error("parse what helm rendered")]
    Parse(#[from] serde_yaml_ng::Error),
}

/// The message itself, since a test that unwraps shows this form and its reader needs the remedy.
impl fmt::Debug for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chart of this repository.
pub fn chart() -> PathBuf {
    repository().join("charts/tessera")
}

/// One way to install the chart.
#[derive(Clone, Debug)]
pub struct Install {
    chart: PathBuf,
    namespace: String,
    settings: Vec<String>,
    files: Vec<PathBuf>,
    served: Vec<String>,
}

impl Default for Install {
    /// The documented installation: the defaults, and the word that no one else hands out GPUs.
    fn default() -> Self {
        Self::bare().set("gpuResourcesEnabledOverride=true")
    }
}

impl Install {
    /// The defaults alone.
    pub fn bare() -> Self {
        Self {
            chart: chart(),
            namespace: RELEASE.to_owned(),
            settings: Vec::new(),
            files: Vec::new(),
            served: Vec::new(),
        }
    }

    /// With `setting` as `--set` takes it.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// With the values file `file`, over which settings win.
    #[must_use]
    pub fn values(mut self, file: &Path) -> Self {
        self.files.push(file.to_owned());
        self
    }

    /// Into a cluster that serves the API `version`, such as `security.openshift.io/v1`, as well.
    #[must_use]
    pub fn serving(mut self, version: &str) -> Self {
        self.served.push(version.to_owned());
        self
    }

    /// Into `namespace`.
    #[must_use]
    pub fn into_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// From another copy of the chart.
    #[must_use]
    pub fn from_chart(mut self, chart: &Path) -> Self {
        chart.clone_into(&mut self.chart);
        self
    }

    /// Renders the templates into documents, hooks included.
    pub fn render(&self) -> Result<Vec<Value>, RenderError> {
        let output = self.helm(&["template", RELEASE])?;
        let documents = serde_yaml_ng::Deserializer::from_str(&output).map(Value::deserialize);
        // A template that renders nothing leaves an empty document.
        let documents = documents.filter(|document| !matches!(document, Ok(Value::Null)));
        Ok(documents.collect::<Result<_, _>>()?)
    }

    /// Lints strictly: warnings are errors.
    pub fn lint(&self) -> Result<String, RenderError> {
        self.helm(&["lint", "--strict"])
    }

    fn helm(&self, arguments: &[&str]) -> Result<String, RenderError> {
        let program = std::env::var_os(HELM).filter(|program| !program.is_empty());
        let program = PathBuf::from(program.ok_or(RenderError::FindHelm)?);
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .arg(&self.chart)
            .args(["--namespace", &self.namespace]);
        command.args(["--kube-version", KUBERNETES]);
        for file in &self.files {
            command.arg("--values").arg(file);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        for version in &self.served {
            command.args(["--api-versions", version]);
        }
        match command.output() {
            Ok(Output { status, stdout, .. }) if status.success() => {
                Ok(String::from_utf8_lossy(&stdout).into_owned())
            }
            // Lint reports on standard output, the rest on standard error.
            Ok(Output { stdout, stderr, .. }) => Err(RenderError::Refused(format!(
                "{}{}",
                String::from_utf8_lossy(&stderr),
                String::from_utf8_lossy(&stdout)
            ))),
            Err(source) => Err(RenderError::StartHelm { program, source }),
        }
    }
}
