use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// Far more than a test needs; what never comes fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(20);

struct Serving {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    // Answers nobody, but counts who comes.
    registration: UnixListener,
    _root: tempfile::TempDir,
}

/// A probe whose own sockets do not answer, so that it says so.
async fn serving() -> Serving {
    let root = tempfile::tempdir().unwrap();
    let (registry, plugins) = (root.path().join("reg"), root.path().join("p"));
    let paths = SocketPaths::new(&registry, &plugins, "gpu.nvidia.com", None).unwrap();
    std::fs::create_dir_all(&registry).unwrap();
    let socket = paths.registration.as_socket_path().as_path();
    let registration = UnixListener::bind(socket).unwrap();
    let (_, published) = watch::channel(PublishState::NotYet);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (_, hardware) = HardwareWatch::test();
    let probe = Probe::new(paths, hardware, published);
    let server = tokio::spawn(probe.serve(listener, stop.clone()));
    Serving {
        address,
        stop,
        server,
        registration,
        _root: root,
    }
}

impl Serving {
    async fn check(&self, service: String) -> Result<Response<HealthCheckResponse>, Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address));
        let channel = endpoint.unwrap().connect().await.unwrap();
        let request = HealthCheckRequest { service };
        HealthClient::new(channel).check(request).await
    }

    async fn stop(self) {
        self.stop.cancel();
        let stopped = tokio::time::timeout(LIMIT, self.server).await.unwrap();
        stopped.unwrap().unwrap();
    }
}

/// Whether the server holds this connection, once all that it said is read.
fn is_open(stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_get_the_answer_of_one_look() {
    let serving = serving().await;
    let answers = join_all((0..8).map(|_| serving.check("liveness".to_owned()))).await;
    for answer in answers {
        let status = answer.unwrap().into_inner().status;
        assert_eq!(status, i32::from(ServingStatus::NotServing));
    }
    let mut looks = 0;
    while tokio::time::timeout(Duration::ZERO, serving.registration.accept())
        .await
        .is_ok()
    {
        looks += 1;
    }
    assert_eq!(looks, 1);
    serving.stop().await;
}

#[tokio::test]
async fn a_crowd_holds_no_more_than_the_places_and_keeps_no_caller_off() {
    let serving = serving().await;
    let mut crowd = Vec::new();
    for at in 0..500 {
        let mut stream = TcpStream::connect(serving.address).await.unwrap();
        if at % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        }
        crowd.push(stream);
    }
    let answer = serving.check("unknown".to_owned()).await.unwrap_err();
    assert_eq!(answer.code(), tonic::Code::NotFound);
    let held = crowd.iter().filter(|stream| is_open(stream)).count();
    assert!(held <= CONNECTIONS.get(), "{held}");
    serving.stop().await;
}

#[tokio::test]
async fn a_question_that_is_too_long_is_refused() {
    let serving = serving().await;
    let answer = serving.check("x".repeat(LIMITS.message_bytes)).await;
    let refused = answer.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    serving.stop().await;
}
