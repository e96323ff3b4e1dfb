//! The figures beside their budgets, as rows of a table.

use std::time::Duration;

use super::Figures;
use super::exposition::Totals;
use super::memory::Memory;
use super::summary::Summary;
use super::throughput::Rates;
use crate::table::markdown;

/// A figure, what it should be, and the reference driver's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    what: String,
    figure: String,
    budget: &'static str,
    reference: &'static str,
}

/// The table in Markdown.
pub(super) fn render(rows: &[Row]) -> String {
    let head = ["what", "figure", "budget", "reference driver"];
    let cells = |row: &Row| {
        let known = |text: &str| if text.is_empty() { "–" } else { text }.to_owned();
        [
            row.what.clone(),
            row.figure.clone(),
            known(row.budget),
            known(row.reference),
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    markdown(head, &rows)
}

/// The budgets are the project's, the reference's figures those of its version 0.5-dev on the same cluster and a machine of the same kind.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let mut rows = calls(figures);
    rows.extend(parts(figures));
    rows.extend(starts(figures));
    rows.extend(footprint(figures));
    rows
}

pub(super) fn row(
    what: impl Into<String>,
    figure: impl Into<String>,
    budget: &'static str,
    reference: &'static str,
) -> Row {
    Row {
        what: what.into(),
        figure: figure.into(),
        budget,
        reference,
    }
}

fn calls(figures: &Figures) -> Vec<Row> {
    let (one, eight) = (&figures.one_pod, &figures.eight_pods);
    let (single, parallel) = (&figures.one_claim, &figures.eight_claims);
    let kubelet = "in the kubelet's histogram";
    let socket = "on the socket";
    let alone = "one at a time";
    let at_once = "8 at once";
    vec![
        row(
            format!("Prepare {alone}, {kubelet} ({} pods)", one.prepare.count),
            seen_by_kubelet(one.prepare, one.prepare_inside),
            "mean ≤ 4 ms",
            "9.5–10.3 ms",
        ),
        row(
            format!("Prepare {alone}, {socket}"),
            spread(&single.prepare),
            "mean ≤ 4 ms, p99 ≤ 12 ms",
            "",
        ),
        row(
            format!(
                "Prepare {at_once}, {kubelet} ({} pods)",
                eight.prepare.count
            ),
            seen_by_kubelet(eight.prepare, eight.prepare_inside),
            "mean ≤ 10 ms",
            "74–126 ms",
        ),
        row(
            format!("Prepare {at_once}, {socket}"),
            spread(&parallel.prepare),
            "mean ≤ 10 ms, p99 ≤ 40 ms",
            "p99 341–755 ms",
        ),
        row(
            format!("Unprepare {alone}, {kubelet}"),
            seen_by_kubelet(one.unprepare, one.unprepare_inside),
            "mean ≤ 2 ms",
            "2.6 ms",
        ),
        row(
            format!("Unprepare {alone}, {socket}"),
            spread(&single.unprepare),
            "mean ≤ 2 ms",
            "",
        ),
        row(
            format!("Unprepare {at_once}, {kubelet}"),
            seen_by_kubelet(eight.unprepare, eight.unprepare_inside),
            "",
            "13–16 ms",
        ),
        row(
            format!("Unprepare {at_once}, {socket}"),
            spread(&parallel.unprepare),
            "",
            "",
        ),
        row(
            "processor time of the plugin for a Prepare and an Unprepare",
            format!("mean {:.2} ms", figures.worked.as_secs_f64() * 1e3),
            "",
            "",
        ),
        row(
            "pod created to Running, one at a time",
            started(&one.started),
            "",
            "0.89 s",
        ),
        row(
            "8 pods created to all Running",
            started(&eight.started),
            "",
            "",
        ),
    ]
}

fn parts(figures: &Figures) -> Vec<Row> {
    let (one, eight) = (&figures.one_part, &figures.eight_parts);
    vec![
        row(
            "Prepare of a MIG device that is made for it, one at a time, on the socket",
            spread(&one.prepare),
            "≤ 50 ms over the driver's own time",
            "",
        ),
        row(
            "Prepare of a MIG device each, 8 at once, on the socket",
            spread(&eight.prepare),
            "",
            "",
        ),
        row(
            "Unprepare of a MIG device that is destroyed, one at a time, on the socket",
            spread(&one.unprepare),
            "",
            "",
        ),
        row(
            "64 pods with a whole GPU each scheduled on 8 nodes",
            scheduled(&figures.throughput),
            "≥ 0.95",
            "",
        ),
    ]
}

fn scheduled(rates: &Rates) -> String {
    rates.compared().map_or_else(
        || "not seen".to_owned(),
        |(whole, views, part)| {
            let count = rates.views.len();
            format!(
                "{part:.2}: {views:.0} a second beside MIG devices, {whole:.0} where there is nothing else (n={count})"
            )
        },
    )
}

fn starts(figures: &Figures) -> Vec<Row> {
    let served = Summary::of(&figures.served);
    let typical = served.map_or(Duration::ZERO, |served| served.p50);
    let to_slice: Vec<_> = figures
        .starts
        .iter()
        .map(|start| start.registered_to_slice)
        .collect();
    let whole: Vec<_> = figures
        .starts
        .iter()
        .map(|start| typical + start.served_to_registered + start.registered_to_slice)
        .collect();
    vec![
        row(
            "process start to sockets serving",
            spread(&figures.served),
            "≤ 100 ms",
            "",
        ),
        row(
            "NotifyRegistrationStatus to slice visible",
            spread(&to_slice),
            "≤ 150 ms",
            "",
        ),
        row(
            "process start to slice visible",
            spread(&whole),
            "",
            "1.33–1.35 s",
        ),
    ]
}

fn footprint(figures: &Figures) -> Vec<Row> {
    let sizes = &figures.sizes;
    let minutes = figures.idle_minutes;
    let writes = figures.writes;
    vec![
        row(
            "resident memory, idle",
            memory(figures.idle),
            "≤ 12 MiB",
            "",
        ),
        row(
            format!("resident memory after {} claims", figures.loaded.half),
            memory(figures.loaded.after_half),
            "",
            "57–60 MB (100 claims)",
        ),
        row(
            format!("resident memory after {} claims", figures.loaded.all),
            memory(figures.loaded.after_all),
            "≤ 25 MiB, no more than after half",
            "",
        ),
        row(
            "kubelet plugin, stripped",
            megabytes(sizes.plugin),
            "≤ 10 MB",
            "58 MB",
        ),
        row(
            "CDI hook, stripped and static",
            megabytes(sizes.hook),
            "≤ 2 MB",
            "",
        ),
        row("controller, stripped", megabytes(sizes.controller), "", ""),
        row("image, not compressed", megabytes(sizes.image), "", ""),
        row(
            format!("API writes of the plugin in {minutes} idle min"),
            format!(
                "{} (by anyone to slices and Events: {})",
                writes.own, writes.possible
            ),
            "0 in 10 min",
            "",
        ),
        row(
            format!("writes of Leases by anyone in {minutes} idle min"),
            writes.leases.to_string(),
            "",
            "",
        ),
    ]
}

fn seen_by_kubelet(calls: Totals, inside: Totals) -> String {
    match (calls.mean(), inside.mean()) {
        (Some(calls), Some(inside)) => format!("mean {}, in the plugin {}", ms(calls), ms(inside)),
        _ => "not seen".to_owned(),
    }
}

pub(super) fn spread(series: &[Duration]) -> String {
    Summary::of(series).map_or_else(
        || "not seen".to_owned(),
        |Summary {
             count,
             mean,
             p50,
             p99,
             max,
         }| {
            let (mean, p50, p99, max) = (ms(mean), ms(p50), ms(p99), ms(max));
            // A percentile of few is its maximum by another name.
            if count < 100 {
                format!("mean {mean}, p50 {p50}, max {max} (n={count})")
            } else {
                format!("mean {mean}, p50 {p50}, p99 {p99}, max {max} (n={count})")
            }
        },
    )
}

/// How long starts took, of which there are few.
pub(super) fn started(series: &[Duration]) -> String {
    Summary::of(series).map_or_else(
        || "not seen".to_owned(),
        |started| format!("p50 {}, max {}", seconds(started.p50), seconds(started.max)),
    )
}

pub(super) fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

pub(super) fn memory(memory: Memory) -> String {
    let (all, own) = (mebibytes(memory.resident), mebibytes(memory.anonymous));
    format!("{all}, of it anonymous {own}")
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", tenths(bytes, 1 << 20))
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", tenths(bytes, 1_000_000))
}

/// Rounded to one digit after the point.
fn tenths(bytes: u64, unit: u64) -> String {
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_a_tenth() {
        for (bytes, megabyte, mebibyte) in [
            (0, "0.0 MB", "0.0 MiB"),
            (1_049_999, "1.0 MB", "1.0 MiB"),
            (1_050_000, "1.1 MB", "1.0 MiB"),
            (9_999_999, "10.0 MB", "9.5 MiB"),
            (u64::MAX, "18446744073709.6 MB", "17592186044416.0 MiB"),
        ] {
            assert_eq!(
                (megabytes(bytes).as_str(), mebibytes(bytes).as_str()),
                (megabyte, mebibyte)
            );
        }
    }

    #[test]
    fn a_p99_is_told_of_a_hundred_and_more() {
        let series = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(
            spread(&series(3)),
            "mean 2.0 ms, p50 2.0 ms, max 3.0 ms (n=3)"
        );
        let wanted = "mean 50.5 ms, p50 50.0 ms, p99 99.0 ms, max 100.0 ms (n=100)";
        assert_eq!(spread(&series(100)), wanted);
        assert_eq!(spread(&[]), "not seen");
    }

    #[test]
    fn a_table_is_aligned_and_says_where_nothing_is_known() {
        let rows = [
            row("Prepare", "mean 3.0 ms", "≤ 4 ms", ""),
            row("size", "9 MB", "", "58 MB"),
        ];
        let wanted = "\
| what    | figure      | budget | reference driver |
| ------- | ----------- | ------ | ---------------- |
| Prepare | mean 3.0 ms | ≤ 4 ms | –                |
| size    | 9 MB        | –      | 58 MB            |
";
        assert_eq!(render(&rows), wanted);
    }
}
