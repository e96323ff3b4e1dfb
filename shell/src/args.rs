//! What every program of the product is told in the same way.

use clap::Args;

use crate::http::ListenAddress;
use crate::logging::LogFormat;

/// How it logs.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// How much is logged, 0 to 6.
    #[arg(
        short = 'v',
        long = "v",
        env = "LOG_VERBOSITY",
        default_value_t = 4,
        global = true
    )]
    pub verbosity: u8,

    /// How log lines look: json or text.
    #[arg(long, env = "LOG_FORMAT", default_value = "json", global = true)]
    pub log_format: LogFormat,
}

/// Where it serves pages.
#[derive(Clone, Debug, Args)]
pub struct PageArgs {
    /// Where metrics and health are served, e.g. :8080. Empty: nowhere.
    #[arg(long, env = "HTTP_ENDPOINT", default_value = "")]
    pub http_endpoint: ListenAddress,

    /// HTTP path of the metrics.
    #[arg(long, env = "METRICS_PATH", default_value = "/metrics")]
    pub metrics_path: String,
}
