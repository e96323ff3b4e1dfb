//! The kubeconfig of one user of the cluster, self-contained: certificates inside, no other file needed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::pki::Identity;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(rename = "current-context")]
    current_context: &'static str,
    clusters: [Named<'a, ClusterEntry<'a>>; 1],
    contexts: [Named<'a, ContextEntry<'a>>; 1],
    users: [Named<'a, UserEntry>; 1],
}

/// One entry of a list: its name, and its content under the key that the list's kind asks for.
#[derive(Serialize)]
struct Named<'a, T> {
    name: &'a str,
    #[serde(flatten)]
    entry: T,
}

#[derive(Serialize)]
struct ClusterEntry<'a> {
    cluster: ClusterInfo<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterInfo<'a> {
    server: &'a str,
    certificate_authority_data: String,
}

#[derive(Serialize)]
struct ContextEntry<'a> {
    context: ContextInfo<'a>,
}

#[derive(Serialize)]
struct ContextInfo<'a> {
    cluster: &'a str,
    user: &'a str,
}

#[derive(Serialize)]
struct UserEntry {
    user: UserInfo,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct UserInfo {
    client_certificate_data: String,
    client_key_data: String,
}

const NAME: &str = "tessera";

/// The kubeconfig with which `user` talks to `server`, as JSON, which every reader of YAML takes.
pub(crate) fn render(server: &str, authority_pem: &str, name: &str, user: &Identity) -> String {
    let config = Config {
        api_version: "v1",
        kind: "Config",
        current_context: NAME,
        clusters: [Named {
            name: NAME,
            entry: ClusterEntry {
                cluster: ClusterInfo {
                    server,
                    certificate_authority_data: STANDARD.encode(authority_pem),
                },
            },
        }],
        contexts: [Named {
            name: NAME,
            entry: ContextEntry {
                context: ContextInfo {
                    cluster: NAME,
                    user: name,
                },
            },
        }],
        users: [Named {
            name,
            entry: UserEntry {
                user: UserInfo {
                    client_certificate_data: STANDARD.encode(&user.certificate_pem),
                    client_key_data: STANDARD.encode(&user.key_pem),
                },
            },
        }],
    };
    serde_json::to_string_pretty(&config).expect("strings and lists of strings always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_joins_the_user_and_the_cluster_that_the_file_defines() {
        let user = Identity {
            certificate_pem: "cert".into(),
            key_pem: "key".into(),
        };
        let text = render("https://10.200.0.1:443", "ca", "admin", &user);
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["contexts"][0]["name"], config["current-context"]);
        assert_eq!(config["current-context"], "tessera");
        assert_eq!(
            config["contexts"][0]["context"]["cluster"],
            config["clusters"][0]["name"]
        );
        assert_eq!(
            config["contexts"][0]["context"]["user"],
            config["users"][0]["name"]
        );
        assert_eq!(
            config["clusters"][0]["cluster"]["certificate-authority-data"],
            STANDARD.encode("ca")
        );
        assert_eq!(
            config["users"][0]["user"]["client-key-data"],
            STANDARD.encode("key")
        );
        assert_eq!(config["apiVersion"], "v1");
    }
}
