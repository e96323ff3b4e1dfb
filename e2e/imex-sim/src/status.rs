//! Asking a daemon how it is: over its command port or its Unix socket, one question a connection.

use std::{
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    peer::line,
    state::{Connection, DaemonState},
};

/// Longest answer that is read.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// What a daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its state.
    pub state: DaemonState,
    /// Its index.
    pub index: usize,
    /// Its connections, by index.
    pub connections: Vec<Connection>,
    /// Its version.
    pub version: String,
}

/// Answers the question that comes on this connection.
pub fn answer(stream: impl Read + Write, status: &Status) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    if line(&mut stream)?.trim() != "STATUS?" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let answer = serde_json::to_vec(status)?;
    stream.get_mut().write_all(&answer)
}

/// Asks the daemon at this address.
pub fn ask(address: SocketAddr, patience: Duration) -> io::Result<Status> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    question(stream)
}

/// Asks the daemon at this Unix socket.
pub fn ask_at(socket: &Path, patience: Duration) -> io::Result<Status> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    question(stream)
}

fn question(mut stream: impl Read + Write) -> io::Result<Status> {
    stream.write_all(b"STATUS?\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}
