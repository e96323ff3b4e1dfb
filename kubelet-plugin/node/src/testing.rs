//! Values and doubles for the tests of this crate.

pub(crate) mod api;
pub(crate) mod cutting;
mod errors_page;
pub(crate) mod fuse;
pub(crate) mod machine;

pub(crate) use tessera_prepare::testing::{claim, record};
