//! Asks the nvidia-imex that the host runs, as the reference driver does where the host runs it: `nvidia-imex-ctl -q`
//! at the socket that its configuration names (`IMEX_CMD_UNIX_DOMAIN_PATH`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tessera_driver_root::program::{Heard as Words, command, run};
use tessera_session::DaemonState;
use tokio::task::spawn_blocking;

use super::Heard;
use crate::deadline::Deadline;
use crate::driver_root::{self, DriverRoot};

/// Bound of one question.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// How long the program that asks is to wait for the daemon, in milliseconds.
const PATIENCE: &str = "2000";

/// How much of an answer is read: it is one word.
const LONGEST_ANSWER: usize = 4096;

/// The nvidia-imex of the host.
#[derive(Clone, Debug)]
pub struct HostImex {
    /// Where the program is that asks.
    pub driver_root: DriverRoot,
    /// The daemon's command socket, as this process sees it.
    pub socket: PathBuf,
    /// The same, as the host has it and people know it.
    pub host_socket: PathBuf,
}

impl HostImex {
    /// Asks once, for as long as `deadline` and [`ASK_LIMIT`] allow.
    pub(super) async fn is_ready(&self, heard: &Heard, deadline: Deadline) -> bool {
        let (this, limit) = (self.clone(), deadline.at_most(ASK_LIMIT).remaining());
        // The process ends by the same limit when nobody waits for the answer any more.
        let asked = spawn_blocking(move || this.ask(limit)).await;
        match asked {
            Ok(Ok(DaemonState::Ready)) => true,
            Ok(Ok(state)) => {
                heard.put(format!("nvidia-imex of the host says {state}"));
                false
            }
            Ok(Err(why)) => {
                heard.put(why);
                false
            }
            Err(_) => {
                heard.put("the question to nvidia-imex of the host was not asked".to_owned());
                false
            }
        }
    }

    /// What the daemon says of itself, or why it cannot be asked and what to do about it.
    fn ask(&self, limit: Duration) -> Result<DaemonState, String> {
        let Self {
            driver_root,
            socket,
            host_socket,
        } = self;
        let shown = host_socket.display();
        if !is_there(socket) {
            return Err(format!(
                "nvidia-imex of the host has no command socket at {shown}; set IMEX_CMD_UNIX_DOMAIN_PATH={shown} in its \
                 configuration and see that it runs, or set resources.computeDomains.imex.hostSocketPath to where its \
                 socket is, or to nothing if it is not to be asked"
            ));
        }
        let program =
            driver_root::find_imex_control(driver_root).map_err(|error| error.to_string())?;
        let program = program.ok_or_else(|| {
            "the driver installation has no nvidia-imex-ctl, by which nvidia-imex of the host is asked; install it \
             there, or set resources.computeDomains.imex.hostSocketPath to nothing"
                .to_owned()
        })?;
        // It may be one that needs no NVML; where there is one, it is of the same driver.
        let library = driver_root::find_nvml(driver_root).ok();
        let said = asked(&program, library.as_deref(), socket, limit);
        let said = said.map_err(|error| {
            format!(
                "nvidia-imex-ctl does not answer for nvidia-imex of the host at {shown}: {error}"
            )
        })?;
        Ok(DaemonState::parse(&said))
    }
}

fn is_there(socket: &Path) -> bool {
    socket.symlink_metadata().is_ok()
}

fn asked(
    program: &Path,
    library: Option<&Path>,
    socket: &Path,
    limit: Duration,
) -> io::Result<String> {
    let mut control = command(program, library);
    control.args(["-q", "-t", PATIENCE, "-u"]).arg(socket);
    // Whether it calls its end a success does not matter: what it prints says more.
    let ran = run(control, Words::Output, LONGEST_ANSWER, limit)?;
    ran.map(|ran| ran.said)
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::super::{NodeSession, SessionNotReady};
    use super::*;

    /// A host whose nvidia-imex-ctl is a script.
    struct Host {
        root: TempDir,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("driver/usr/bin")).unwrap();
            Self { root }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn serves(&self) {
            fs::write(self.path("imex.sock"), "").unwrap();
        }

        fn answers(&self, script: &str) {
            let program = self.path("driver/usr/bin/nvidia-imex-ctl");
            let new = self.path("driver/usr/bin/new");
            fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(new, program).unwrap();
        }

        async fn ready(&self, patience: Duration) -> Result<(), SessionNotReady> {
            let imex = HostImex {
                driver_root: DriverRoot::new(self.path("driver"), "/"),
                socket: self.path("imex.sock"),
                host_socket: "/etc/nvidia-imex/imex_ctrl.sock".into(),
            };
            let session = NodeSession::OfHost(imex);
            session
                .ready(&[], &Heard::nothing(), Deadline::after(patience))
                .await
        }

        /// What is said where it is not ready in time.
        async fn why(&self) -> String {
            let patience = Duration::from_millis(700);
            self.ready(patience).await.unwrap_err().to_string()
        }
    }

    #[tokio::test]
    async fn a_host_that_cannot_be_asked_is_told_what_is_missing_and_what_to_set() {
        let host = Host::new();
        let why = host.why().await;
        for word in [
            "/etc/nvidia-imex/imex_ctrl.sock",
            "IMEX_CMD_UNIX_DOMAIN_PATH",
            "hostSocketPath",
        ] {
            assert!(why.contains(word), "{why}");
        }
        host.serves();
        let why = host.why().await;
        assert!(why.contains("has no nvidia-imex-ctl"), "{why}");
    }

    #[tokio::test]
    async fn what_is_not_ready_is_waited_for_and_not_taken_for_ready() {
        let host = Host::new();
        host.serves();
        host.answers("echo NOT_READY");
        assert!(host.why().await.contains("says NOT_READY"));
        // Ready at the second question.
        let asked = host.path("asked");
        let asked = asked.display();
        host.answers(&format!(
            "if [ -e {asked} ]; then echo READY; else echo INITIALIZING; touch {asked}; fi"
        ));
        host.ready(Duration::from_secs(30)).await.unwrap();
    }

    #[tokio::test]
    async fn the_daemon_is_asked_at_its_socket() {
        let host = Host::new();
        host.serves();
        host.answers(r#"[ "$1 $2 $3 $4" = "-q -t 2000 -u" ] && [ -e "$5" ] && echo READY"#);
        host.ready(Duration::from_secs(30)).await.unwrap();
    }
}
