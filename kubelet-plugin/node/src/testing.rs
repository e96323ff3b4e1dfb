//! Values and doubles for the tests of this crate.

mod errors_page;
pub(crate) mod machine;

pub(crate) use tessera_prepare::testing::{claim, record};
