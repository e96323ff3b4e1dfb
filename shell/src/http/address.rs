//! Reads the listening addresses that Go programs accept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Where to listen, as `--http-endpoint` says it.
///
/// | text | meaning |
/// |---|---|
/// | empty | off |
/// | `:8080` | every address, IPv6 and IPv4 |
/// | `0.0.0.0:8080`, `[::]:8080`, `127.0.0.1:8080` | that address |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenAddress {
    /// No endpoint.
    #[default]
    Off,
    /// This port on every address of the host.
    Everywhere(u16),
    /// This address only.
    At(SocketAddr),
}

/// Says that a text is no listening address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no listening address: write it as :8080, 0.0.0.0:8080 or [::]:8080")]
pub struct AddressError {
    text: String,
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || AddressError {
            text: text.to_owned(),
        };
        if text.is_empty() {
            return Ok(Self::Off);
        }
        // u16's parser takes a leading plus sign, which no one means here.
        match text.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map(Self::Everywhere).map_err(|_| refuse())
            }
            Some(_) => Err(refuse()),
            None => text.parse().map(Self::At).map_err(|_| refuse()),
        }
    }
}

impl ListenAddress {
    /// The addresses to try, in order; the first that can be bound is the endpoint.
    ///
    /// `[::]` takes IPv4 as well where the kernel speaks both, and cannot be bound where IPv6 is
    /// switched off; then IPv4 alone is right.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        match *self {
            Self::Off => Vec::new(),
            Self::Everywhere(port) => vec![
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            ],
            Self::At(address) => vec![address],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_of_the_reference_are_read() {
        assert_eq!("".parse(), Ok(ListenAddress::Off));
        assert_eq!(":8080".parse(), Ok(ListenAddress::Everywhere(8080)));
        for one in ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:1"] {
            assert_eq!(one.parse(), Ok(ListenAddress::At(one.parse().unwrap())));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "8080",
            ":",
            ":+1",
            ":-1",
            ":65536",
            "localhost:80",
            "::80",
            "1.2.3.4",
            " :80",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<ListenAddress>();
        }

        #[test]
        fn every_port_can_be_asked_for(port: u16) {
            prop_assert_eq!(format!(":{port}").parse(), Ok(ListenAddress::Everywhere(port)));
        }
    }
}
