//! What a service account may do: the API server is asked with a token of its own, as a program in a pod would ask.

use std::io::Write as _;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::kubernetes::{Kubernetes, run};

/// A service account of a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceAccount<'a> {
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
}

/// Somebody who acts at the API server with the rights of a token and no others.
pub(crate) struct Account<'a> {
    kubernetes: Kubernetes<'a>,
    kubeconfig: NamedTempFile,
}

impl<'a> Account<'a> {
    /// With a token that is bound to this pod, as the kubelet gives to the pod: it names pod and node.
    pub(crate) fn in_pod(
        kubernetes: Kubernetes<'a>,
        account: ServiceAccount<'_>,
        pod: &str,
    ) -> Result<Self, Failure> {
        let bound = format!("--bound-object-name={pod}");
        Self::with(kubernetes, account, &["--bound-object-kind=Pod", &bound])
    }

    /// With a token that is bound to nothing.
    pub(crate) fn nowhere(
        kubernetes: Kubernetes<'a>,
        account: ServiceAccount<'_>,
    ) -> Result<Self, Failure> {
        Self::with(kubernetes, account, &[])
    }

    fn with(
        kubernetes: Kubernetes<'a>,
        account: ServiceAccount<'_>,
        options: &[&str],
    ) -> Result<Self, Failure> {
        let ServiceAccount { namespace, name } = account;
        let mut arguments = vec!["create", "token", name];
        arguments.extend(options);
        let token = kubernetes.command(namespace, &arguments, None)?;
        let view = ["config", "view", "--raw", "--minify", "--output=json"];
        let view = kubernetes.command(namespace, &view, None)?;
        let mut config: Value = serde_json::from_str(&view).map_err(unreadable)?;
        // A client certificate would count before the token.
        for user in config["users"].as_array_mut().into_iter().flatten() {
            user["user"] = json!({"token": token.trim()});
        }
        let mut kubeconfig = NamedTempFile::new().map_err(unwritten)?;
        kubeconfig
            .write_all(config.to_string().as_bytes())
            .map_err(unwritten)?;
        Ok(Self {
            kubernetes,
            kubeconfig,
        })
    }

    /// The version of the resource API that its server has.
    pub(crate) fn resource_api(&self) -> &'static str {
        self.kubernetes.cluster().kubernetes().resource_api()
    }

    /// What `kubectl` with these arguments answers.
    pub(crate) fn kubectl(
        &self,
        arguments: &[&str],
        input: Option<&str>,
    ) -> Result<String, Failure> {
        let mut command = self.kubernetes.kubectl("default");
        // Of two, the last counts.
        command.arg("--kubeconfig").arg(self.kubeconfig.path());
        let input = input.map(|manifests| self.kubernetes.version().write(manifests));
        run(command.args(arguments), input.as_deref())
    }

    /// Holds if this is refused, and the reason has all these words.
    pub(crate) fn refused(
        &self,
        arguments: &[&str],
        input: Option<&str>,
        words: &[&str],
    ) -> Result<(), Failure> {
        match self.kubectl(arguments, input) {
            Err(Failure::Refused { said, .. }) if words.iter().all(|word| said.contains(word)) => {
                Ok(())
            }
            other => Err(Failure::wrong(format!(
                "kubectl {} should be refused with {words:?}: {other:?}",
                arguments.join(" ")
            ))),
        }
    }
}

fn unreadable(reason: serde_json::Error) -> Failure {
    Failure::Unreadable {
        line: "kubectl config view".to_owned(),
        reason,
    }
}

fn unwritten(reason: std::io::Error) -> Failure {
    Failure::File {
        path: std::env::temp_dir(),
        reason,
    }
}
