//! What two daemons say to each other: a greeting in one line, then a sign of life again and again.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// The version of the simulated daemon: peers of another do not talk.
pub const VERSION: &str = "580.95.05-simulated";

/// Longest line that is read: a peer may be anybody who reaches the port.
const LONGEST_LINE: u64 = 256;

/// How a daemon introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Its version.
    pub version: String,
    /// The key of its nodes file.
    pub nodes: u32,
    /// Its index.
    pub index: usize,
    /// What stands for its credentials; 0 where it has none.
    pub security: u32,
}

/// What a greeting comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// The peer belongs to the same domain.
    Same,
    /// It is of another version.
    OtherVersion,
    /// Its nodes file is another one.
    OtherNodes,
    /// One of the two is not trusted by the other, or does not encrypt: no connection comes of it.
    NotTrusted,
}

impl Greeting {
    /// The line.
    fn line(&self) -> String {
        let Self {
            version,
            nodes,
            index,
            security,
        } = self;
        format!("IMEX {version} {nodes:08x} {index} {security:08x}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        if words.next()? != "IMEX" {
            return None;
        }
        Some(Self {
            version: words.next()?.to_owned(),
            nodes: u32::from_str_radix(words.next()?, 16).ok()?,
            index: words.next()?.parse().ok()?,
            security: u32::from_str_radix(words.next()?, 16).ok()?,
        })
    }

    /// What it is to meet this one.
    pub fn meets(&self, other: &Self) -> Meeting {
        // TLS comes before everything else that is said.
        if self.security != other.security {
            Meeting::NotTrusted
        } else if self.version != other.version {
            Meeting::OtherVersion
        } else if self.nodes != other.nodes {
            Meeting::OtherNodes
        } else {
            Meeting::Same
        }
    }
}

/// A connection on which both have introduced themselves.
#[derive(Debug)]
pub struct Link {
    stream: BufReader<TcpStream>,
    /// Who the other is.
    pub other: Greeting,
}

impl Link {
    /// Calls a peer. No step takes longer than `patience`.
    pub fn call(address: SocketAddr, own: &Greeting, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        Self::greet(stream, own, patience)
    }

    /// Answers a peer that has called.
    pub fn answer(stream: TcpStream, own: &Greeting, patience: Duration) -> io::Result<Self> {
        Self::greet(stream, own, patience)
    }

    fn greet(mut stream: TcpStream, own: &Greeting, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.write_all(own.line().as_bytes())?;
        let mut stream = BufReader::new(stream);
        let line = line(&mut stream)?;
        let other = Greeting::parse(&line).ok_or_else(|| odd(&line))?;
        Ok(Self { stream, other })
    }

    /// Asks for a sign of life and waits for it.
    pub fn ask(&mut self) -> io::Result<Alive> {
        self.stream.get_mut().write_all(b"ALIVE?\n")?;
        match line(&mut self.stream)?.trim() {
            "ALIVE" => Ok(Alive::Yes),
            "ENDING" => Ok(Alive::Ending),
            other => Err(odd(other)),
        }
    }

    /// Waits for the other's question and answers it.
    pub fn serve(&mut self, ending: bool) -> io::Result<()> {
        let asked = line(&mut self.stream)?;
        if asked.trim() != "ALIVE?" {
            return Err(odd(&asked));
        }
        let answer: &[u8] = if ending { b"ENDING\n" } else { b"ALIVE\n" };
        self.stream.get_mut().write_all(answer)
    }
}

/// Whether a peer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// It does.
    Yes,
    /// It is ending.
    Ending,
}

/// One line, of which no more than so much is read.
pub(crate) fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    io::Read::take(&mut *stream, LONGEST_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn odd(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_survives_its_line_and_tells_strangers_apart() {
        let own = Greeting {
            version: VERSION.to_owned(),
            nodes: 0xbeef,
            index: 3,
            security: 0xcafe,
        };
        assert_eq!(Greeting::parse(&own.line()), Some(own.clone()));
        let newer = Greeting {
            version: "590".to_owned(),
            ..own.clone()
        };
        let elsewhere = Greeting {
            nodes: 1,
            ..own.clone()
        };
        assert_eq!(own.meets(&own), Meeting::Same);
        assert_eq!(own.meets(&newer), Meeting::OtherVersion);
        assert_eq!(own.meets(&elsewhere), Meeting::OtherNodes);
        let open = Greeting {
            security: 0,
            ..newer.clone()
        };
        assert_eq!(own.meets(&open), Meeting::NotTrusted);
        for bad in ["", "IMEX", "IMEX 1 zz 0", "HTTP/1.1 200 OK"] {
            assert_eq!(Greeting::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_not_read_for_ever() {
        let endless = io::repeat(b'a');
        assert!(line(&mut BufReader::new(endless)).is_err());
    }
}
