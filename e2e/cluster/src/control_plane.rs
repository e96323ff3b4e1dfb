//! The control plane: etcd, API server, controller manager, scheduler and DNS with the flags that this machine needs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::gates::Gates;
use crate::names::{
    CLUSTER_DOMAIN, CONTROL_ADDRESS, DNS_ADDRESS, POD_RANGE, SERVICE_ADDRESS, SERVICE_RANGE,
};
use crate::paths::StateDir;
use crate::supervisor::{Endpoint, Mount, Part, Plan};

/// What the control plane's processes and files are filed under.
pub(crate) const OWNER: &str = "control";
/// What answers for names: a program, and the user as which it reads Services.
pub(crate) const DNS: &str = "coredns";

/// Where everybody finds the API server.
pub(crate) fn server() -> String {
    format!("https://{CONTROL_ADDRESS}:443")
}

/// Names and addresses in the API server's certificate.
pub(crate) fn serves_at() -> Vec<String> {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    let addresses = [Ipv4Addr::LOCALHOST, CONTROL_ADDRESS, SERVICE_ADDRESS];
    names
        .map(str::to_owned)
        .into_iter()
        .chain(addresses.map(|a| a.to_string()))
        .collect()
}

/// The plan of the control plane's first process.
pub(crate) fn plan(dir: &StateDir, gates: &Gates) -> Plan {
    let part =
        |name: &str, arguments: Vec<String>, after: Option<u16>| part(dir, name, arguments, after);
    Plan {
        host_name: OWNER.to_owned(),
        mounts: vec![
            Mount::Proc { at: "/proc".into() },
            Mount::Tmpfs { at: "/run".into() },
        ],
        cgroup: None,
        parts: vec![
            part("etcd", etcd(dir), None),
            part(
                "kube-apiserver",
                with_gates(api_server(dir), gates),
                Some(2379),
            ),
            part(
                "kube-controller-manager",
                with_gates(controller_manager(dir), gates),
                Some(443),
            ),
            part(
                "kube-scheduler",
                with_gates(scheduler(dir), gates),
                Some(443),
            ),
            part(
                DNS,
                vec!["-conf".to_owned(), corefile(dir).display().to_string()],
                Some(443),
            ),
        ],
        status: dir.status(OWNER),
    }
}

fn part(dir: &StateDir, name: &str, arguments: Vec<String>, after: Option<u16>) -> Part {
    let program = dir.bin().join(name).display().to_string();
    Part {
        name: name.to_owned(),
        argv: std::iter::once(program).chain(arguments).collect(),
        env: crate::node::environment(dir),
        log: dir.log(name),
        after: after.map(|port| Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
    }
}

fn with_gates(mut arguments: Vec<String>, gates: &Gates) -> Vec<String> {
    arguments.extend(gates.flag());
    arguments
}

fn flags<const N: usize>(flags: [(&str, String); N]) -> Vec<String> {
    flags
        .into_iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

fn etcd(dir: &StateDir) -> Vec<String> {
    let at = |port: u16| format!("http://127.0.0.1:{port}");
    let mut arguments = flags([
        ("data-dir", dir.of(OWNER).join("etcd").display().to_string()),
        ("listen-client-urls", at(2379)),
        ("advertise-client-urls", at(2379)),
        ("listen-peer-urls", at(2380)),
        ("log-level", "warn".to_owned()),
    ]);
    // The cluster does not outlive the machine's power, so it need not wait for the disk.
    arguments.push("--unsafe-no-fsync".to_owned());
    arguments
}

fn api_server(dir: &StateDir) -> Vec<String> {
    let pki = |file: &str| dir.pki(file).display().to_string();
    flags([
        ("etcd-servers", "http://127.0.0.1:2379".to_owned()),
        // Pods call the Service's port without anything in between that could translate it.
        ("secure-port", "443".to_owned()),
        ("bind-address", "0.0.0.0".to_owned()),
        ("advertise-address", CONTROL_ADDRESS.to_string()),
        ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("client-ca-file", pki("ca.crt")),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".to_owned(),
        ),
        ("service-account-key-file", pki("tokens.pub")),
        ("service-account-signing-key-file", pki("tokens.key")),
        ("kubelet-client-certificate", pki("apiserver-client.crt")),
        ("kubelet-client-key", pki("apiserver-client.key")),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        ("allow-privileged", "true".to_owned()),
        // Webhooks are called at the addresses of their pods: nothing here serves the addresses of Services.
        ("enable-aggregator-routing", "true".to_owned()),
        // Older clients of the resource API are part of what is tested.
        (
            "runtime-config",
            "resource.k8s.io/v1beta1=true,resource.k8s.io/v1beta2=true".to_owned(),
        ),
    ])
}

fn controller_manager(dir: &StateDir) -> Vec<String> {
    let pki = |file: &str| dir.pki(file).display().to_string();
    flags([
        (
            "kubeconfig",
            dir.kubeconfig("controller-manager").display().to_string(),
        ),
        ("service-account-private-key-file", pki("tokens.key")),
        ("root-ca-file", pki("ca.crt")),
        ("cluster-signing-cert-file", pki("ca.crt")),
        ("cluster-signing-key-file", pki("ca.key")),
        ("use-service-account-credentials", "true".to_owned()),
        ("leader-elect", "false".to_owned()),
        // It asks for a token per controller at its start, which the usual limit stretches over seconds.
        ("kube-api-qps", "200".to_owned()),
        ("kube-api-burst", "400".to_owned()),
        ("cluster-cidr", POD_RANGE.to_owned()),
        // The nodes' ranges are fixed by their names; nothing may give them others.
        ("allocate-node-cidrs", "false".to_owned()),
    ])
}

fn scheduler(dir: &StateDir) -> Vec<String> {
    flags([
        (
            "kubeconfig",
            dir.kubeconfig("scheduler").display().to_string(),
        ),
        ("leader-elect", "false".to_owned()),
    ])
}

/// Where the configuration of DNS lies.
pub(crate) fn corefile(dir: &StateDir) -> PathBuf {
    dir.of(OWNER).join("Corefile")
}

/// The configuration of DNS: names of Services and of their pods. It knows no others, for nothing outside can be reached.
pub(crate) fn dns(dir: &StateDir) -> String {
    let kubeconfig = dir.kubeconfig(DNS).display().to_string();
    format!(
        ".:53 {{
    bind {DNS_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} {{
        kubeconfig {kubeconfig}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn gates_reach_every_kubernetes_component_and_etcd_stays_without() {
        let dir = StateDir::at(Path::new("/state"));
        let plan = plan(&dir, &"DRAPartitionableDevices=false".parse().unwrap());
        let gated = |part: &Part| {
            part.argv
                .contains(&"--feature-gates=DRAPartitionableDevices=false".to_owned())
        };
        let with: Vec<_> = plan
            .parts
            .iter()
            .filter(|p| gated(p))
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(
            with,
            [
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler"
            ]
        );
    }

    #[test]
    fn the_api_servers_certificate_names_every_address_at_which_it_is_called() {
        let names = serves_at();
        let host = server()
            .trim_start_matches("https://")
            .trim_end_matches(":443")
            .to_owned();
        assert!(
            names.contains(&host) && names.contains(&SERVICE_ADDRESS.to_string()),
            "{names:?}"
        );
    }

    #[test]
    fn dns_reads_services_as_its_own_user_and_listens_where_kubelets_send_pods() {
        let text = dns(&StateDir::at(Path::new("/state")));
        for line in [
            "    bind 10.96.0.10",
            "    kubernetes cluster.local {",
            "        kubeconfig /state/coredns.kubeconfig",
        ] {
            assert!(text.lines().any(|other| other == line), "{text}");
        }
    }
}
