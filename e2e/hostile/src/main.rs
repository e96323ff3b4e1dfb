//! Serves a driver's sockets below the directory that is its argument, until standard input ends.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tessera_hostile::driver::{ending, paths, served};
use tessera_proto::Sockets;
use tokio_util::sync::CancellationToken;

/// More than a farewell on both sockets takes.
const GRACE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let root = std::env::args_os().nth(1);
    let root = PathBuf::from(root.context("name a directory for the sockets")?);
    let stop = CancellationToken::new();
    let over = stop.clone();
    std::thread::spawn(move || {
        // An error is an end too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.cancel();
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let sockets = Sockets::bind(&paths(&root)?)?;
        println!("the sockets are bound");
        let ending = ending(&stop, GRACE);
        Ok(sockets.serve(served(), stop, ending).await?)
    })
}
