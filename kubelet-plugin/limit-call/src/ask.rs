//! The side of the hook.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use thiserror::Error;

use crate::message::{Answer, LONGEST, Request};

/// Time between two attempts: a plugin that is replaced is back within a second.
const PAUSE: Duration = Duration::from_millis(100);

/// No answer was had in time.
#[derive(Debug, Error)]
#[error(
    "the node has not said by {} within {} s that it limits the container; is the Tessera kubelet plugin \
     running on the node?", socket.display(), waited.as_secs()
)]
pub struct AskError {
    socket: PathBuf,
    waited: Duration,
    /// Why the last attempt failed.
    #[source]
    source: io::Error,
}

/// Asks at the socket until there is an answer, for at most `limit`.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Result<Answer, AskError> {
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match attempt(socket, request, left.max(PAUSE)) {
            Ok(answer) => return Ok(answer),
            Err(_) if begun.elapsed() + PAUSE < limit => thread::sleep(PAUSE),
            Err(source) => {
                return Err(AskError {
                    socket: socket.to_owned(),
                    waited: begun.elapsed(),
                    source,
                });
            }
        }
    }
}

fn attempt(socket: &Path, request: &Request, limit: Duration) -> io::Result<Answer> {
    let mut stream = reach(socket, limit)?;
    stream.write_all(request.line().as_bytes())?;
    let mut line = String::new();
    let longest = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    BufReader::new(stream.take(longest)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Its limit holds for each wait: for the connection, for the question and for the answer.
fn reach(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    for direction in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, direction, Some(limit))?;
    }
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn request() -> Request {
        Request {
            share: "a-gpu-0".to_owned(),
            gpu: "GPU-0".to_owned(),
            bytes: 1,
            cgroup: "/a".to_owned(),
        }
    }

    /// Reads a question on each connection and gives the next of these answers; nothing stands for hanging up.
    fn answering(listener: UnixListener, answers: Vec<Option<Answer>>) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                assert_eq!(Request::parse(&line).unwrap(), request());
                if let Some(answer) = answer {
                    (&stream).write_all(answer.line().as_bytes()).unwrap();
                }
            }
        })
    }

    #[test]
    fn whoever_hears_nothing_asks_again_and_a_refusal_is_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("memory.sock");
        let refused = Answer::Refused("no such GPU".to_owned());
        for last in [Answer::Held, refused] {
            let _ = std::fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).unwrap();
            let server = answering(listener, vec![None, None, Some(last.clone())]);
            let answer = ask(&socket, &request(), Duration::from_mins(1)).unwrap();
            assert_eq!(answer, last);
            server.join().unwrap();
        }
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("memory.sock");
        let error = ask(&socket, &request(), Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("memory.sock"), "{error}");
        // One that listens and never answers.
        let _silent = UnixListener::bind(&socket).unwrap();
        ask(&socket, &request(), Duration::from_millis(1)).unwrap_err();
    }
}
