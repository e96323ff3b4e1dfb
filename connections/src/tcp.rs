//! Takes connections in from the network.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::{Places, Seated, accept};

/// The next connection, in a place, for at most `limit`. What passes is tried again; an error is
/// that the socket does not listen any more.
pub async fn next(
    listener: &TcpListener,
    places: &Places,
    limit: Duration,
) -> io::Result<Seated<TcpStream>> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let seated = Seated::new(stream, places.take().await);
                return Ok(seated.for_at_most(limit));
            }
            // EINVAL: the socket does not listen (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) => accept::after_failure(&error).await,
        }
    }
}
