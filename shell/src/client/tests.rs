use std::io::Write as _;

use axum::Router;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;

use super::*;

const PROGRAM: &str = "tessera-test";

fn kubeconfig(server: &str, more_of_cluster: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         contexts: [{{name: here, context: {{cluster: c, user: u, namespace: n}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{server}'{more_of_cluster}}}}}]\n\
         users: [{{name: u, user: {{token: sesame}}}}]\n"
    )
    .unwrap();
    file
}

fn source(path: &Path) -> ApiSource {
    ApiSource {
        kubeconfig: Some(path.to_owned()),
        program: PROGRAM,
    }
}

#[tokio::test]
async fn a_request_carries_the_token_and_names_the_program() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let echo = |request: Request| async move {
        let header = |name| {
            request
                .headers()
                .get(name)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        format!(
            "{} {} {}",
            request.uri(),
            header("authorization"),
            header("user-agent")
        )
    };
    let echoing =
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(echo)).await });

    let file = kubeconfig(&server, "");
    let client = connect(&source(file.path())).await.unwrap();
    assert_eq!(client.default_namespace(), "n");
    let request = axum::http::Request::get("/version")
        .body(Vec::new())
        .unwrap();
    let answer = client.request_text(request).await.unwrap();
    assert_eq!(
        answer,
        format!("/version Bearer sesame {PROGRAM}/{}", crate::VERSION)
    );
    echoing.abort();
}

#[tokio::test]
async fn a_client_is_made_while_the_api_server_is_down() {
    let authority = rcgen::generate_simple_self_signed([]).unwrap().cert.pem();
    let authority = format!(
        ", certificate-authority-data: {}",
        STANDARD.encode(authority)
    );
    let file = kubeconfig("https://127.0.0.1:1", &authority);
    connect(&source(file.path())).await.unwrap();
}

#[tokio::test]
async fn a_missing_kubeconfig_is_named() {
    let error = connect(&source(Path::new("/nowhere/config")))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ConnectError::ReadKubeconfig { .. }));
    assert!(error.to_string().contains("/nowhere/config"), "{error}");
}

#[tokio::test]
async fn a_proxy_in_the_kubeconfig_is_refused_and_not_bypassed() {
    let file = kubeconfig("https://127.0.0.1:1", ", proxy-url: 'http://proxy:3128'");
    let error = connect(&source(file.path())).await.err().unwrap();
    assert!(error.to_string().contains("http://proxy:3128"), "{error}");
}

#[tokio::test]
async fn a_damaged_certificate_is_refused_before_the_first_request() {
    // A PEM block whose content is no certificate.
    let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCmJtOXVjMlZ1YzJVPQotLS0tLUVORCBDRVJUSUZJQ0FURS0tLS0tCg==";
    let file = kubeconfig(
        "https://127.0.0.1:1",
        &format!(", certificate-authority-data: {pem}"),
    );
    let error = connect(&source(file.path())).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::UseCredentials { .. }),
        "{error}"
    );
}
