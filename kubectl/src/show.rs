//! An answer as people read it.

use std::fmt::Write as _;

use tessera_domain::Outlook;
use tessera_domain::decide::outlook::{Asks, Plan};

/// Nodes of a clique that are named; the others are counted.
const NODES: usize = 8;

/// What is asked for, what comes of it, and what else could be asked for.
pub fn plan(outlook: &Outlook) -> String {
    let mut text = head(outlook);
    if let Some(plan) = &outlook.plan {
        text += &nodes(plan);
    }
    if !outlook.alternatives.is_empty() {
        text += "\nAlternatives:\n";
        for other in &outlook.alternatives {
            let fits = if other.fits { "fits" } else { "does not fit" };
            let _infallible = writeln!(text, "  {}: {fits}: {}", other.change, other.outcome);
        }
    }
    text
}

/// How the domain stands, and who holds what it might have.
pub fn explanation(outlook: &Outlook) -> String {
    let mut text = head(outlook);
    if let Some(plan) = &outlook.plan {
        text += &nodes(plan);
    }
    if outlook.cliques.is_empty() {
        return text;
    }
    let name = |clique: &Option<String>| clique.clone().unwrap_or_else(|| "(none)".to_owned());
    let width = outlook.cliques.iter().map(|it| name(&it.clique).len());
    let width = width.max().unwrap_or(0).max("CLIQUE".len());
    let _infallible = writeln!(
        text,
        "\n{:width$}  {:>5}  {:>8}  {:>4}  HELD BY",
        "CLIQUE", "NODES", "ELIGIBLE", "FREE"
    );
    for clique in &outlook.cliques {
        let held = clique.held_by.iter();
        let held: Vec<String> = held
            .map(|(who, nodes)| format!("{who} ({nodes})"))
            .collect();
        let line = format!(
            "{:width$}  {:>5}  {:>8}  {:>4}  {}",
            name(&clique.clique),
            clique.nodes,
            clique.eligible,
            clique.free,
            held.join(", ")
        );
        text += line.trim_end();
        text += "\n";
    }
    text
}

fn head(outlook: &Outlook) -> String {
    let mut text = format!("ComputeDomain {}\n", outlook.domain);
    if let Some(asks) = &outlook.asks {
        let _infallible = writeln!(text, "Asks for: {}", asked(asks));
    }
    let _infallible = writeln!(text, "{}: {}", outlook.reason, outlook.message);
    text
}

fn asked(asks: &Asks) -> String {
    let nodes = if asks.min_nodes == asks.nodes {
        asks.nodes.to_string()
    } else {
        format!("{} to {}", asks.min_nodes, asks.nodes)
    };
    let gpus = asks.gpus_per_node;
    let assumed = if asks.assumed {
        " (assumed: no pod names its template)"
    } else {
        ""
    };
    let policy = asks.policy.as_ref();
    let policy = policy.map_or_else(
        || "none".to_owned(),
        |policy| format!("DomainPolicy {policy}"),
    );
    format!("{nodes} nodes with {gpus} GPUs each{assumed}; policy: {policy}")
}

fn nodes(plan: &Plan) -> String {
    let verb = if plan.holds { "It has" } else { "It would get" };
    let whole = if plan.whole_nodes {
        "whole nodes, kept by a taint"
    } else {
        "parts of nodes, which nothing keeps from others"
    };
    let mut text = format!("\n{verb} channel {} and {whole}:\n", plan.channel);
    for share in &plan.cliques {
        let clique = share.clique.as_deref().unwrap_or("(no clique)");
        let _infallible = writeln!(text, "  {clique}: {}", listed(&share.nodes));
    }
    if !plan.spares.is_empty() {
        let _infallible = writeln!(text, "  spare: {}", listed(&plan.spares));
    }
    text
}

fn listed(nodes: &[String]) -> String {
    let first = nodes[..nodes.len().min(NODES)].join(", ");
    match nodes.len().saturating_sub(NODES) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
