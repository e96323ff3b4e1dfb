//! Both sockets as the kubelet meets them.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod calls;
mod ending;
mod registration;
mod running;
