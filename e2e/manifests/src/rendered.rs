//! What installations of the chart render to, as typed objects, and the pods among them.

use std::fmt;
use std::sync::LazyLock;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodSpec;

use crate::chart::{Install, RenderError};
use crate::strict::{Object, StrictError};

/// Installations that differ in which templates and branches they take, as `--set` takes them.
const SETTINGS: &[&str] = &[
    "image.tag=dev",
    "nvidiaDriverRoot=/run/nvidia/driver,image.pullPolicy=Never",
    "resources.gpus.enabled=false",
    "resources.gpus.enabled=false,resources.computeDomains.enabled=false",
    "altProcDevices=/run/nvidia/driver/proc/devices,kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled=true",
    "kubeletPlugin.containers.computeDomains.healthcheckPort=-1,monitoring.serviceMonitor.enabled=true",
    "resources.gpus.migProfiles[0]=1g.24gb-me",
    "resources.gpus.migProfiles=null",
    "serviceAccount.create=false,serviceAccount.name=mine",
    "serviceAccount.name=mine,serviceAccount.annotations.a=b",
    "kubeletPlugin.containers.gpus.healthcheckPort=-1",
    "kubeletPlugin.metrics.enabled=false,controller.metrics.enabled=false",
    "kubeletPlugin.containers.gpus.healthcheckPort=-1,kubeletPlugin.metrics.enabled=false",
    "kubeletPlugin.containers.gpus.env[0].name=SYSFS_ROOT,kubeletPlugin.containers.gpus.env[0].value=/driver-root/sys",
    "kubeletPlugin.containers.gpus.resources.limits.memory=64Mi,controller.containers.computeDomain.resources.requests.cpu=10m",
    "kubeletPlugin.nodeSelector.a=b,controller.nodeSelector.a=b,kubeletPlugin.podAnnotations.a=b,controller.podAnnotations.a=b",
    "kubeletPlugin.podSecurityContext.fsGroup=1,controller.podSecurityContext.fsGroup=1",
    "kubeletPlugin.tolerations=null,controller.tolerations=null,kubeletPlugin.affinity=null,controller.affinity=null",
    "kubeletPlugin.priorityClassName=,controller.priorityClassName=,kubeletPlugin.updateStrategy=null",
    "kubeletPlugin.updateStrategy.rollingUpdate.maxUnavailable=100%",
    "imagePullSecrets[0].name=secret,nvidiaCDIHookPath=/usr/bin/nvidia-cdi-hook,logFormat=text,logVerbosity=6",
    "controller.metrics.httpEndpoint=[::]:9090,kubeletPlugin.metrics.gpuHttpEndpoint=127.0.0.1:9091,controller.replicas=2",
    "fullnameOverride=other,namespaceOverride=elsewhere,nameOverride=third",
    "selectorLabelsOverride.app=gpu",
    "uninstall.deleteResourceSlices=false,resources.computeDomains.enabled=false",
    "controller.leaderElection.enabled=false",
    "resources.computeDomains.imex.mode=hostManaged,resources.gpus.enabled=false",
    "resources.computeDomains.imex.mode=hostManaged,resources.computeDomains.imex.hostSocketPath=/run/imex/control.sock",
    "global.anything=true",
    "webhook.enabled=true",
    "webhook.enabled=true,webhook.tls.certManager.issuerType=clusterissuer,webhook.tls.certManager.issuerName=ca",
    "webhook.enabled=true,webhook.tls.mode=secret,webhook.tls.secret.name=mine,webhook.tls.secret.caBundle=Q0E=",
    "webhook.enabled=true,webhook.containerPort=8443,webhook.servicePort=8443,webhook.serviceAccount.name=mine,webhook.podAnnotations.a=b",
    "webhook.enabled=true,webhook.strategy=null,webhook.podSecurityContext=null,webhook.tolerations=null,webhook.priorityClassName=",
    "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,controller.replicas=3",
    "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,resources.gpus.enabled=false",
    "controller.networkPolicy.enabled=true,kubeletPlugin.networkPolicy.enabled=true,controller.metrics.enabled=false,kubeletPlugin.metrics.enabled=false,kubeletPlugin.containers.gpus.healthcheckPort=-1",
    "monitoring.podMonitor.enabled=true,monitoring.podMonitor.interval=15s,monitoring.podMonitor.labels.release=prometheus",
    "monitoring.serviceMonitor.enabled=true,monitoring.dashboard.enabled=true,monitoring.dashboard.annotations.folder=gpu",
    "monitoring.service.enabled=true,kubeletPlugin.metrics.enabled=false",
    "consumableShares=memory,memoryAgent.enabled=true,kubeletPlugin.networkPolicy.enabled=true,monitoring.podMonitor.enabled=true",
    "consumableShares=memory,memoryAgent.enabled=true,memoryAgent.resources=null,resources.computeDomains.enabled=false,kubeletPlugin.metrics.enabled=false",
    "consumableShares=10,shareStatus.enabled=true",
    "consumableShares=memory,memoryAgent.enabled=true,shareStatus.enabled=true,serviceAccount.create=false,serviceAccount.name=mine",
    "sessionHost.tls.enabled=true,sessionHost.tls.secretName=imex",
    "sessionHost.networkPolicy.enabled=true,sessionHost.serverPort=51000,sessionHost.commandPort=51005",
    "sessionHost.metrics.enabled=false,sessionHost.networkPolicy.enabled=true,sessionHost.priorityClassName=,sessionHost.podAnnotations.a=b",
    "sessionHost.env[0].name=HOSTS_FILE,sessionHost.env[0].value=/etc/hosts,resources.computeDomains.imex.mode=driverManaged",
    "resources.computeDomains.imex.mode=domain,resources.computeDomains.preemption.enabled=true",
];

/// Why there are no objects of an installation.
#[derive(thiserror::Error)]
pub enum RenderedError {
    /// Nothing was rendered.
    #[error("{source}\n  for {install:?}")]
    Render {
        /// What was to be installed.
        install: Box<Install>,
        /// Why.
        source: RenderError,
    },
    /// A document is no object that we would install.
    #[error("{source:?}\n  for {install:?}")]
    Read {
        /// What was to be installed.
        install: Box<Install>,
        /// Why.
        source: StrictError,
    },
}

/// The message itself, as with [`RenderError`].
impl fmt::Debug for RenderedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The objects of an installation.
pub fn objects(install: &Install) -> Result<Vec<Object>, RenderedError> {
    let whose = || Box::new(install.clone());
    let documents = install.render().map_err(|source| RenderedError::Render {
        install: whose(),
        source,
    })?;
    let read = |document| {
        Object::read(&document).map_err(|source| RenderedError::Read {
            install: whose(),
            source,
        })
    };
    documents.into_iter().map(read).collect()
}

/// The installations that [`everything`] renders.
pub fn installations() -> Vec<Install> {
    let long = format!("fullnameOverride={}", "x".repeat(63));
    let settings = SETTINGS.iter().copied().chain([long.as_str()]);
    settings
        .map(|settings| Install::default().set(settings))
        .chain([Install::default()])
        .collect()
}

/// The objects of each of the [`installations`], rendered once per process.
pub fn everything() -> Result<&'static [Vec<Object>], &'static RenderedError> {
    static RENDERED: LazyLock<Result<Vec<Vec<Object>>, RenderedError>> =
        LazyLock::new(|| installations().iter().map(objects).collect());
    RENDERED.as_deref()
}

/// The `DaemonSet` of the plugin, if it is installed.
pub fn plugin_set(objects: &[Object]) -> Option<&DaemonSet> {
    set(objects, "-kubelet-plugin")
}

/// The `DaemonSet` of the session hosts, if there are any.
pub fn session_host_set(objects: &[Object]) -> Option<&DaemonSet> {
    set(objects, "-session-host")
}

fn set<'a>(objects: &'a [Object], suffix: &str) -> Option<&'a DaemonSet> {
    objects.iter().find_map(|object| match object {
        Object::DaemonSet(set) if object.name().ends_with(suffix) => Some(&**set),
        _ => None,
    })
}

/// The pods of the plugin, if it is installed.
pub fn plugin(objects: &[Object]) -> Option<&PodSpec> {
    plugin_set(objects)?.spec.template.spec.as_ref()
}

/// The pods of the controller: those of the first Deployment.
pub fn controller(objects: &[Object]) -> Option<&PodSpec> {
    let deployment = |object: &&Object| matches!(object, Object::Deployment(_));
    objects.iter().find(deployment)?.pod()
}
