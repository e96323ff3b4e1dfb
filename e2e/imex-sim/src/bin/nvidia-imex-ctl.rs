//! A simulated `nvidia-imex-ctl`.

use std::{fmt::Write as _, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use imex_sim::{
    config::Config,
    nodes::{Nodes, address},
    state::{Connection, DaemonState, domain},
    status::{self, Status},
};

/// Asks IMEX daemons how they are. Simulated, as they are.
#[derive(Debug, Parser)]
#[command(name = "nvidia-imex-ctl", disable_version_flag = true)]
struct Arguments {
    /// The configuration file of the daemon.
    #[arg(short, long, default_value = "/etc/nvidia-imex/config.cfg")]
    config: PathBuf,
    /// Print the state of the local daemon.
    #[arg(short, long)]
    query: bool,
    /// Print how all daemons are connected to each other.
    #[arg(short = 'N', long)]
    query_all: bool,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
    /// Ask the daemon at this Unix socket.
    #[arg(short, long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Ask the daemon at this address.
    #[arg(short, long, value_name = "IP:PORT")]
    ip: Option<SocketAddr>,
    /// How long to wait for an answer, in milliseconds.
    #[arg(short, long, value_name = "MILLISECONDS", default_value_t = 5000)]
    timeout: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = if arguments.query_all {
        all(&arguments)
    } else {
        one(&arguments)
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", DaemonState::Unavailable);
            eprintln!("nvidia-imex-ctl (simulated): {error}");
            ExitCode::FAILURE
        }
    }
}

fn one(arguments: &Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let status = local(arguments)?;
    if arguments.json {
        return Ok(serde_json::to_string(&status)?);
    }
    Ok(status.state.to_string())
}

fn patience(arguments: &Arguments) -> Duration {
    Duration::from_millis(arguments.timeout)
}

fn local(arguments: &Arguments) -> Result<Status, Box<dyn std::error::Error>> {
    let patience = patience(arguments);
    if let Some(address) = arguments.ip {
        return Ok(status::ask(address, patience)?);
    }
    if let Some(socket) = &arguments.unix {
        return Ok(status::ask_at(socket, patience)?);
    }
    let config = Config::load(&arguments.config)?;
    if let Some(socket) = &config.command_socket {
        return Ok(status::ask_at(socket, patience)?);
    }
    let nodes = Nodes::load(&config.nodes_file)?;
    let own = nodes.own_index(config.bind.as_deref())?;
    Ok(ask(&nodes.names()[own], &config, patience)?)
}

fn ask(node: &str, config: &Config, patience: Duration) -> io::Result<Status> {
    let port = config.command_port.ok_or(io::ErrorKind::Unsupported)?;
    let address = address(node, port).ok_or(io::ErrorKind::NotFound)?;
    status::ask(address, patience)
}

/// A row of the table as JSON: nodes and connections by their indices.
fn node<'a>(
    at: usize,
    (state, row): &(DaemonState, Vec<Connection>),
    host: impl Fn(usize) -> &'a str,
) -> (String, serde_json::Value) {
    let connection = |(peer, status): (usize, &Connection)| {
        let value = serde_json::json!({"host": host(peer), "status": status});
        (peer.to_string(), value)
    };
    let connections: serde_json::Map<_, _> = row.iter().enumerate().map(connection).collect();
    let value = serde_json::json!({"host": host(at), "status": state, "connections": connections});
    (at.to_string(), value)
}

/// Each daemon is asked for its own row, so a port that is closed costs a row.
fn all(arguments: &Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let config = Config::load(&arguments.config)?;
    let nodes = Nodes::load(&config.nodes_file)?;
    let patience = patience(arguments);
    let row = |node: &String| match ask(node, &config, patience) {
        Ok(status) => (status.state, status.connections),
        Err(_) => (
            DaemonState::Unavailable,
            vec![Connection::Invalid; nodes.names().len()],
        ),
    };
    let rows: Vec<_> = nodes.names().iter().map(row).collect();
    let state = domain(&rows);
    if arguments.json {
        let host = |at: usize| nodes.names()[at].as_str();
        let table: serde_json::Map<_, _> = (0..)
            .zip(&rows)
            .map(|(at, row)| node(at, row, host))
            .collect();
        return Ok(serde_json::json!({"nodes": table, "status": state}).to_string());
    }
    let mut text = String::from(
        "Connectivity Table Legend: C connected, N never connected, R recovering, \
                                 D disconnected, I invalid, !V! other version, !M! other nodes file\n",
    );
    for (at, (state, row)) in rows.iter().enumerate() {
        let marks: Vec<_> = row.iter().map(|connection| connection.mark()).collect();
        let _ = writeln!(
            text,
            "Node #{at:<3} {:<24} {state:<22} {}",
            nodes.names()[at],
            marks.join(" ")
        );
    }
    Ok(text + &format!("Domain State: {state}"))
}
