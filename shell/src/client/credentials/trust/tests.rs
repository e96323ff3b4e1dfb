use std::fs;
use std::net::SocketAddr;

use axum::http::{Request, Uri};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::*;

type Identity = CertifiedKey<rcgen::KeyPair>;

fn identity() -> Identity {
    generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap()
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn config(server: &str) -> Config {
    Config::new(server.parse::<Uri>().unwrap())
}

fn trusting(server: &str, authority: &NamedTempFile) -> Config {
    let mut config = config(server);
    let pem = fs::read(authority.path()).unwrap();
    let given = CertificateDer::pem_slice_iter(&pem).map(|der| der.unwrap().to_vec());
    config.root_cert = Some(given.collect());
    config.root_cert_file = Some(authority.path().to_owned());
    config
}

/// Answers each request with an empty list of Pods, by TLS, to whom `client` has signed if it is given.
async fn serve(own: &Identity, client: Option<&Identity>) -> (SocketAddr, JoinHandle<()>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.cert.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).unwrap();
    let server = builder
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, serving)
}

async fn ask(config: &Config) -> Result<String, kube::Error> {
    let client = crate::client::build(config, "test").unwrap();
    ask_by(&client).await
}

async fn ask_by(client: &kube::Client) -> Result<String, kube::Error> {
    let request = Request::get("/").body(Vec::new()).unwrap();
    client.request_text(request).await
}

#[test]
fn a_cluster_that_is_not_to_be_verified_is_refused() {
    let nobody = config("https://127.0.0.1:1");
    let error = Trust::of(&nobody).unwrap_err();
    assert!(matches!(error, CredentialsError::NoAuthority), "{error}");
    let mut unverified = trusting("https://127.0.0.1:1", &file(&identity().cert.pem()));
    unverified.accept_invalid_certs = true;
    let error = Trust::of(&unverified).unwrap_err().to_string();
    assert!(error.contains("insecure-skip-tls-verify"), "{error}");
    // Who asks for no TLS has nobody to trust.
    Trust::of(&config("http://127.0.0.1:1")).unwrap();
}

#[test]
fn half_a_client_certificate_is_refused() {
    let authority = file(&identity().cert.pem());
    let mut config = trusting("https://127.0.0.1:1", &authority);
    config.auth_info.client_certificate = Some(authority.path().display().to_string());
    let error = Trust::of(&config).unwrap_err();
    assert!(matches!(error, CredentialsError::HalfIdentity), "{error}");
    config.auth_info.client_key_data = Some("no base64!".to_owned().into());
    let error = Trust::of(&config).unwrap_err().to_string();
    assert!(error.contains("client-key-data"), "{error}");
}

#[test]
fn an_authority_that_stays_or_cannot_be_read_keeps_the_sessions() {
    let authority = file(&identity().cert.pem());
    let trust = Trust::of(&trusting("https://127.0.0.1:1", &authority)).unwrap();
    let first = trust.now();
    assert!(Arc::ptr_eq(&first, &trust.now()));
    for damaged in [
        "",
        "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(authority.path(), damaged).unwrap();
        assert!(Arc::ptr_eq(&first, &trust.now()), "{damaged}");
    }
    fs::write(authority.path(), identity().cert.pem()).unwrap();
    assert!(!Arc::ptr_eq(&first, &trust.now()));
    authority.close().unwrap();
    trust.now();
}

#[tokio::test]
async fn a_server_is_believed_if_the_authority_of_that_moment_signed_its_certificate() {
    let (old, new) = (identity(), identity());
    let authority = file(&old.cert.pem());
    let (address, serving) = serve(&new, None).await;
    let config = trusting(&format!("https://{address}"), &authority);
    let client = crate::client::build(&config, "test").unwrap();
    assert!(
        ask_by(&client).await.is_err(),
        "another authority signed it"
    );
    fs::write(authority.path(), new.cert.pem()).unwrap();
    assert_eq!(ask_by(&client).await.unwrap(), "ok");
    serving.abort();
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_data_and_from_files() {
    let (server, client) = (identity(), identity());
    let (address, serving) = serve(&server, Some(&client)).await;
    let authority = file(&server.cert.pem());
    let mut config = trusting(&format!("https://{address}"), &authority);
    assert!(
        ask(&config).await.is_err(),
        "the server wants a certificate"
    );
    let (certificate, key) = (client.cert.pem(), client.signing_key.serialize_pem());
    config.auth_info.client_certificate_data = Some(STANDARD.encode(&certificate));
    config.auth_info.client_key_data = Some(STANDARD.encode(&key).into());
    assert_eq!(ask(&config).await.unwrap(), "ok");
    let (certificate, key) = (file(&certificate), file(&key));
    config.auth_info = AuthInfo {
        client_certificate: Some(certificate.path().display().to_string()),
        client_key: Some(key.path().display().to_string()),
        ..AuthInfo::default()
    };
    assert_eq!(ask(&config).await.unwrap(), "ok");
    serving.abort();
}
