//! The command line, with the flags and environment names of the reference driver's controller.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use tessera_domain::{Levels, LevelsError, Rules, SessionsBy, SessionsOf};
use tessera_shell::args::{LogArgs, PageArgs};
use uuid::Uuid;

use crate::domains::Settings;
use crate::lease::{Params, ParamsError};
use crate::webhook::WebhookArgs;

/// Plans for the cluster as a whole; one replica leads, the others stand by.
///
/// Every flag can be given by the environment variable that stands beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "tessera-controller", version, max_term_width = 100)]
pub struct Args {
    /// What to do instead of running the controller.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// A kubeconfig file. Without one, the service account of the pod is used.
    #[arg(long, env = "KUBECONFIG", global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of this controller and of its Lease.
    #[arg(long, env = "NAMESPACE", default_value = "default")]
    pub namespace: String,

    /// Name of this pod; the holder of the Lease is called after it.
    #[arg(long, env = "POD_NAME", default_value = "tessera-controller")]
    pub pod_name: String,

    /// Where pages are served.
    #[command(flatten)]
    pub pages: PageArgs,

    /// Whether to elect a leader. Without election nothing keeps two controllers apart, and a
    /// rolling update runs two.
    #[arg(
        long,
        env = "LEADER_ELECTION_ENABLED",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub leader_election_enabled: bool,

    /// Whether to serve compute domains.
    #[arg(
        long,
        env = "COMPUTE_DOMAINS",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub compute_domains: bool,

    /// Who runs nvidia-imex: clique, the session hosts of this driver, one session for each NVLink clique; domain, the
    /// same, one session for each domain, which has its nodes to itself; or hostManaged, whoever administers the hosts.
    #[arg(long, env = "IMEX_MODE", value_enum, default_value = "clique")]
    pub imex_mode: ImexMode,

    /// Whose node labels tell where in the network nodes are: aws, gke, oci, coreweave, crusoe, topograph, or zones
    /// for region and zone alone. Policies of domains name these labels as topology levels.
    #[arg(long, env = "TOPOLOGY_PRESET", default_value = "zones")]
    pub topology_preset: String,

    /// Node labels that tell where in the network nodes are, from broad to narrow, with commas between them; in
    /// place of those of the preset.
    #[arg(long, env = "TOPOLOGY_LEVELS", value_delimiter = ',')]
    pub topology_levels: Vec<String>,

    /// Whether domains of lower priority are ended for others whose policy preempts: their pods are evicted.
    #[arg(
        long,
        env = "PREEMPTION",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub preemption: bool,

    /// How long others wait without seeing a renewal before they take the Lease.
    #[arg(long, env = "LEADER_ELECTION_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub leader_election_lease_duration: Duration,

    /// How long a leader may fail to renew before it stops; shorter than the lease duration.
    #[arg(long, env = "LEADER_ELECTION_RENEW_DEADLINE", default_value = "10s", value_parser = duration)]
    pub leader_election_renew_deadline: Duration,

    /// How often a leader renews and others look.
    #[arg(long, env = "LEADER_ELECTION_RETRY_PERIOD", default_value = "2s", value_parser = duration)]
    pub leader_election_retry_period: Duration,

    /// Name of the Lease.
    #[arg(
        long,
        env = "LEADER_ELECTION_LEASE_NAME",
        default_value = "tessera-controller"
    )]
    pub leader_election_lease_name: String,

    /// How it logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Who runs `nvidia-imex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImexMode {
    /// The session hosts of this driver, one session for each clique.
    #[value(name = "clique")]
    Clique,
    /// The session hosts of this driver, one session for each domain.
    #[value(name = "domain")]
    Domain,
    /// Whoever administers the hosts.
    #[value(name = "hostManaged")]
    HostManaged,
}

impl ImexMode {
    /// The same in the terms of the decisions.
    pub fn sessions(self) -> SessionsBy {
        match self {
            Self::Clique => SessionsBy::SessionHosts(SessionsOf::Clique),
            Self::Domain => SessionsBy::SessionHosts(SessionsOf::Domain),
            Self::HostManaged => SessionsBy::Administrators,
        }
    }
}

/// A task other than the controller's.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Delete every ResourceSlice of this project's drivers, as an uninstallation does at its end.
    Cleanup,
    /// Serve the admission webhook, which checks configurations when they are applied.
    Webhook(WebhookArgs),
}

impl Args {
    /// How compute domains are served.
    pub fn domains(&self) -> Result<Settings, LevelsError> {
        let sessions = self.imex_mode.sessions();
        Ok(Settings {
            namespace: self.namespace.clone(),
            rules: Rules {
                levels: Levels::chosen(&self.topology_preset, &self.topology_levels)?,
                preemption: self.preemption,
                sessions_of: match sessions {
                    SessionsBy::SessionHosts(sessions_of) => sessions_of,
                    SessionsBy::Administrators => SessionsOf::Clique,
                },
            },
            sessions,
        })
    }

    /// The election's parameters under an identity that no other process has; `None` when election
    /// is off.
    pub fn election(&self) -> Result<Option<Params>, ParamsError> {
        if !self.leader_election_enabled {
            return Ok(None);
        }
        // A pod's name returns with its container, so the name alone would let a restarted
        // process mistake its predecessor's Lease for its own.
        let identity = format!("{}_{}", self.pod_name, Uuid::new_v4());
        Params::new(
            identity,
            self.leader_election_lease_duration,
            self.leader_election_renew_deadline,
            self.leader_election_retry_period,
        )
        .map(Some)
    }
}

/// Reads durations as Go prints them: `15s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let remedy = |problem: String| format!("{problem}: write a duration as 15s or 1m30s");
    let signed: SignedDuration = text.parse().map_err(|error| remedy(format!("{error}")))?;
    Duration::try_from(signed).map_err(|_| remedy("durations are not negative".to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["tessera-controller"], flags].concat())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_name() {
        for arg in Args::command().get_arguments() {
            let id = arg.get_id().as_str();
            assert!(
                arg.get_env().is_some() || matches!(id, "help" | "version"),
                "{id}"
            );
        }
    }

    #[test]
    fn the_webhook_takes_the_flags_of_the_reference() {
        let files = [
            "--tls-cert-file=/tls/tls.crt",
            "--tls-private-key-file=/tls/tls.key",
        ];
        let args = parse(&[&["webhook"], &files[..]].concat()).unwrap();
        let Some(Command::Webhook(webhook)) = args.command else {
            panic!("{:?}", args.command);
        };
        assert_eq!(webhook.port, 443);
        assert!(parse(&["webhook"]).is_err());
    }

    #[test]
    fn the_default_times_are_those_of_the_reference() {
        let args = parse(&[]).unwrap();
        let times = [
            args.leader_election_lease_duration,
            args.leader_election_renew_deadline,
            args.leader_election_retry_period,
        ];
        assert_eq!(times, [15, 10, 2].map(Duration::from_secs));
        assert!(args.election().unwrap().is_some());
    }

    #[test]
    fn topology_levels_are_a_presets_or_those_that_are_listed() {
        let levels = |flags: &[&str]| parse(flags).unwrap().domains().map(|it| it.rules.levels);
        assert_eq!(levels(&[]), Levels::preset("zones"));
        assert_eq!(levels(&["--topology-levels="]), Levels::preset("zones"));
        assert_eq!(levels(&["--topology-preset=aws"]), Levels::preset("aws"));
        let listed = levels(&["--topology-preset=aws", "--topology-levels=zone, rack"]).unwrap();
        assert_eq!(listed.keys(), ["zone", "rack"]);
        let told = levels(&["--topology-preset=moon"]).unwrap_err().to_string();
        assert!(
            told.contains("moon") && told.contains("coreweave"),
            "{told}"
        );
        assert!(levels(&["--topology-levels=a,a"]).is_err());
    }

    #[test]
    fn election_can_be_switched_in_every_form_that_go_takes() {
        for (flag, on) in [
            ("--leader-election-enabled", true),
            ("--leader-election-enabled=true", true),
            ("--leader-election-enabled=false", false),
        ] {
            assert_eq!(
                parse(&[flag]).unwrap().election().unwrap().is_some(),
                on,
                "{flag}"
            );
        }
    }

    #[test]
    fn durations_are_read_as_go_prints_them_and_never_negative() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "15", "-1s", "soon", "1e9h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn two_processes_of_one_pod_have_different_identities() {
        let args = parse(&["--pod-name=p"]).unwrap();
        assert_ne!(args.election().unwrap(), args.election().unwrap());
    }
}
