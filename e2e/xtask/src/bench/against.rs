//! This version beside another one, call by call.
//!
//! Machines are noisy: one program takes a third longer for the same call from one hour to the next. So both versions run at
//! once on one cluster and are called in turn for the same claims, now the one first, now the other.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tessera_cluster::Node;
use tessera_proto::dra::v1::Claim;
use tokio::runtime::Builder;

use super::serving;
use super::socket::{Socket, Timings};
use super::standalone::Standalone;
use super::summary::Summary;
use crate::table::markdown;

/// How many claims each version prepares before anything counts: the first ones find nothing in any cache.
const UNCOUNTED: usize = 16;

/// What both versions took.
pub(super) struct Comparison {
    one: Pair,
    many: Pair,
}

/// This version's, and the other's.
type Pair = [Timings; 2];

/// A version that runs.
struct Version {
    socket: Socket,
    _process: Standalone,
}

/// Both versions, one in each of these directories, prepare and unprepare the claims: one after the other, then `width` at once.
pub(super) fn compare(
    [this, other]: [&Path; 2],
    node: &Node,
    kubeconfig: &Path,
    claims: &[Claim],
    width: usize,
) -> anyhow::Result<Comparison> {
    let versions = [
        Version::start(this, node, kubeconfig)?,
        Version::start(other, node, kubeconfig)?,
    ];
    in_turn(&versions, &claims[..UNCOUNTED.min(claims.len())], 1)?;
    Ok(Comparison {
        one: in_turn(&versions, claims, 1)?,
        many: in_turn(&versions, claims, width)?,
    })
}

impl Version {
    fn start(programs: &Path, node: &Node, kubeconfig: &Path) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the runtime")?;
        let mut process = Standalone::start(programs, node, kubeconfig)?;
        serving::answered(&runtime, &mut process)?;
        Ok(Self {
            socket: Socket::at(process.dra())?,
            _process: process,
        })
    }
}

fn in_turn(versions: &[Version; 2], claims: &[Claim], width: usize) -> anyhow::Result<Pair> {
    let mut pair = Pair::default();
    for (round, claims) in claims.chunks(width).enumerate() {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for version in order {
            let took = versions[version].socket.time(claims, width)?;
            pair[version].prepare.extend(took.prepare);
            pair[version].unprepare.extend(took.unprepare);
        }
    }
    Ok(pair)
}

/// The comparison as a table of Markdown.
pub(super) fn render(comparison: &Comparison) -> String {
    let Comparison { one, many } = comparison;
    let [prepare, unprepare] = [
        |timings: &Timings| timings.prepare.clone(),
        |timings: &Timings| timings.unprepare.clone(),
    ];
    let rows = [
        row("Prepare one at a time", one.each_ref().map(prepare)),
        row("Prepare 8 at once", many.each_ref().map(prepare)),
        row("Unprepare one at a time", one.each_ref().map(unprepare)),
        row("Unprepare 8 at once", many.each_ref().map(unprepare)),
    ];
    markdown(["what", "this version", "the other", "mean", "p50"], &rows)
}

fn row(what: &str, took: [Vec<Duration>; 2]) -> [String; 5] {
    let [Some(this), Some(other)] = took.map(|series| Summary::of(&series)) else {
        let nothing = || "–".to_owned();
        return [what.to_owned(), nothing(), nothing(), nothing(), nothing()];
    };
    [
        what.to_owned(),
        words(&this),
        words(&other),
        change(this.mean, other.mean),
        change(this.p50, other.p50),
    ]
}

fn words(summary: &Summary) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "mean {:.2} ms, p50 {:.2} ms, p99 {:.1} ms (n={})",
        milliseconds(summary.mean),
        milliseconds(summary.p50),
        milliseconds(summary.p99),
        summary.count
    )
}

/// By how much the first is more than the second, in percent of the second.
fn change(this: Duration, other: Duration) -> String {
    let ratio = this.as_secs_f64() / other.as_secs_f64();
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_percent_of_the_other_version() {
        let milliseconds = Duration::from_millis;
        assert_eq!(change(milliseconds(11), milliseconds(10)), "+10.0 %");
        assert_eq!(change(milliseconds(9), milliseconds(10)), "-10.0 %");
    }
}
