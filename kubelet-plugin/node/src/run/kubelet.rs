//! Serves the kubelet, and what the kubelet's looks depend on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tessera_proto::{
    CALL_LIMIT, DraPlugin, DraResourceHealth, Ending, RegistrationEvent, Served, SocketPaths,
    Sockets,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::assembly::Assembly;
use crate::keeper::Post;
use crate::own_files;

/// How long the kubelet may take to hang up once the registration socket is gone: it looks every
/// second. The chart gives the pod 60 s between SIGTERM and SIGKILL, for this and a longest call; what
/// is not done then is resumed from the journal.
const HANG_UP: Duration = Duration::from_secs(3);

/// How long calls may go on waiting once we are told to stop: for an unprepare, say, which another
/// plugin may do by then. To end them at once would cost each pod a minute, and to let them run
/// into [`CALL_LIMIT`] would end them without an answer.
const PATIENCE: Duration = Duration::from_secs(40);

// What no longer waits still needs time to answer.
const _: () = assert!(PATIENCE.as_secs() < CALL_LIMIT.as_secs());

impl Assembly<'_> {
    /// Serves the kubelet. The receiver tells how often it has registered us; `hurry` is cancelled
    /// when calls may not wait any longer.
    pub(super) fn serve_kubelet<P: DraPlugin, H: DraResourceHealth>(
        &mut self,
        plugin: P,
        health: H,
        sockets: Sockets,
        post: Post,
        hurry: CancellationToken,
    ) -> watch::Receiver<u64> {
        let (registered, registrations) = watch::channel(0);
        let taken_over = post.taken_over;
        let served = Served {
            driver: self.args.drivers.name().to_owned(),
            plugin: Arc::new(plugin),
            health: Arc::new(health),
            observer: Arc::new(move |event| observe(&event, taken_over, &registered)),
        };
        let ending = Ending {
            told: self.parts.told().clone(),
            calls: CALL_LIMIT,
            hang_up: HANG_UP,
        };
        self.parts.start("kubelet sockets", |stop| async move {
            let serving = sockets.serve(served, stop.clone(), ending);
            Ok(hurrying(serving, stop, PATIENCE, hurry).await?)
        });
        registrations
    }

    /// Watches what a start puts where the node looks for it.
    pub(super) fn watch_own_files(&mut self, paths: &SocketPaths, hook: Option<PathBuf>) {
        // A hook that somebody else installed is on the host, and not for us to see.
        let hook = hook.filter(|_| self.args.nvidia_cdi_hook_path.is_none());
        let sockets = [&paths.dra, paths.registration.as_socket_path()];
        let sockets = sockets.map(|path| path.as_path().to_owned());
        let files = sockets.into_iter().chain(hook).collect();
        self.parts.start("own files", |stop| async move {
            Ok(own_files::watch(files, stop).await?)
        });
    }
}

/// Awaits `serving`, and cancels `hurry` so much time after the stop.
async fn hurrying<T>(
    serving: impl Future<Output = T>,
    stop: CancellationToken,
    patience: Duration,
    hurry: CancellationToken,
) -> T {
    let out_of_patience = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
        hurry.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = serving => ended,
        never = out_of_patience => never,
    }
}

/// Counts how often the kubelet has registered us.
fn observe(event: &RegistrationEvent, taken_over: bool, registered: &watch::Sender<u64>) {
    match event {
        RegistrationEvent::Unheard { .. } | RegistrationEvent::Refused { .. } => warn!("{event}"),
        RegistrationEvent::InfoRead => tracing::debug!("{event}"),
        RegistrationEvent::Registered => {
            info!("{event}");
            registered.send_modify(|times| *times += 1);
        }
        // The kubelet registers a socket's file once, so to a process that took it over it says
        // nothing else. A connection to a new file can be left over from one of the same path, and the kubelet
        // is about to take that out of its list.
        RegistrationEvent::Connected if !taken_over => {}
        RegistrationEvent::Connected => {
            registered.send_if_modified(|times| {
                let first = *times == 0;
                *times += u64::from(first);
                first
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_hurried_only_some_time_after_the_stop() {
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let serving = {
            let (stop, hurry) = (stop.clone(), hurry.clone());
            async move {
                tokio::time::sleep(PATIENCE * 2).await;
                assert!(!hurry.is_cancelled(), "nobody has said stop");
                stop.cancel();
                let stopped = tokio::time::Instant::now();
                hurry.cancelled().await;
                stopped.elapsed()
            }
        };
        assert_eq!(hurrying(serving, stop, PATIENCE, hurry).await, PATIENCE);
    }
}
