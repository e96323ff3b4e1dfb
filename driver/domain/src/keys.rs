//! The names by which the controller, the nodes and users recognise what belongs to a domain.

/// The driver of channels and slots.
pub const DRIVER: &str = "compute-domain.nvidia.com";

/// The driver of GPUs, whose claims say how many of a node's GPUs are used.
pub const GPU_DRIVER: &str = "gpu.nvidia.com";

/// The device class of whole GPUs.
pub const GPU_CLASS: &str = "gpu.nvidia.com";

/// The resource by which pods ask for GPUs without a claim.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// The device class of channels, as the reference calls it.
pub const CHANNEL_CLASS: &str = "compute-domain-default-channel.nvidia.com";

/// The name of the one request in a domain's template, as the reference calls it.
pub const CHANNEL_REQUEST: &str = "channel";

/// Keeps a domain until everything of it is gone. The reference's name, so that a domain of its
/// controller can be deleted by this one.
pub const FINALIZER: &str = "resource.nvidia.com/computeDomain";

/// On a template, and on the session host of a node that a domain has: the UID of the domain.
pub const DOMAIN_LABEL: &str = "resource.nvidia.com/computeDomain";

/// What [`DOMAIN_LABEL`] says of a session host that serves all domains of a clique.
pub const CLIQUE_SESSION: &str = "clique-session";

/// The label that tells what of the product a pod is.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// [`COMPONENT_LABEL`] of session hosts.
pub const SESSION_HOST: &str = "session-host";

/// On a template: whom it is for.
pub const TARGET_LABEL: &str = "resource.nvidia.com/computeDomainTarget";

/// [`TARGET_LABEL`] of what users name in their pods.
pub const WORKLOAD: &str = "Workload";

/// The taint of a node whose GPUs are held for a domain; its value is the domain's UID.
pub const TAINT: &str = "tessera-dra.github.io/domain";

/// On a slice of slots: namespace and name of the domain, for people.
pub const DOMAIN_ANNOTATION: &str = "tessera-dra.github.io/domain";

/// On a slice of slots: the channel, which has to be known when the slice has no devices any more.
pub const CHANNEL_ANNOTATION: &str = "tessera-dra.github.io/channel";

/// On a slice of slots: how many GPUs of each node are held for the domain.
pub const GPUS_ANNOTATION: &str = "tessera-dra.github.io/gpus-per-node";

/// On a slice of slots: what keeps others from these GPUs.
pub const HOLDS_ANNOTATION: &str = "tessera-dra.github.io/holds";

/// On a slice of slots: since when they are offered on these nodes.
pub const OFFERED_ANNOTATION: &str = "tessera-dra.github.io/offered";

/// On a slice of slots: since when it is withdrawn, and its channel in quarantine.
pub const RELEASED_ANNOTATION: &str = "tessera-dra.github.io/released";

/// On a slice of slots: that only those are left that claims hold, and no pod gets one more.
pub const CLOSED_ANNOTATION: &str = "tessera-dra.github.io/closed";

/// On a slice of slots: nodes of an earlier plan that may still have the channel, with commas between them.
pub const FORMER_ANNOTATION: &str = "tessera-dra.github.io/former-nodes";

/// On a slice of slots whose nodes are of several cliques: how many nodes are of each, in the order in which the
/// nodes are named, with commas between them.
pub const SHARES_ANNOTATION: &str = "tessera-dra.github.io/clique-nodes";

/// On a slice of slots: nodes that are held against the loss of others, with commas between them.
pub const SPARES_ANNOTATION: &str = "tessera-dra.github.io/spare-nodes";

/// On a slice of slots that have no devices yet: the UIDs of the domains that are being ended to make room, with commas
/// between them.
pub const AWAITS_ANNOTATION: &str = "tessera-dra.github.io/awaits-end-of";

/// The label by which a slice's node selector names nodes.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// The label in which GPU Feature Discovery counts a node's GPUs.
pub const GPU_COUNT_LABEL: &str = "nvidia.com/gpu.count";

/// The pool of a domain's slots.
pub fn pool(domain: &str) -> String {
    format!("domain-{domain}")
}

/// The domain whose slots are in `pool`.
pub fn domain_of_pool(pool: &str) -> Option<&str> {
    pool.strip_prefix("domain-")
}
