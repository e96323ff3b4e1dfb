//! Reads metrics as Prometheus scrapes them: lines `name{label="value",…} number`.
//!
//! A line that is none is passed over, as it is in a scrape's comments; a metric that is not there has a total of zero,
//! because a series appears with its first observation.

use std::time::Duration;

/// One line: a series and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    labels: Vec<(&'a str, String)>,
    pub(super) value: f64,
}

impl Sample<'_> {
    /// The label's value; empty where there is no such label, which is what Prometheus takes it for.
    pub(super) fn label(&self, name: &str) -> &str {
        let mut labels = self.labels.iter();
        labels
            .find(|(label, _)| *label == name)
            .map_or("", |(_, value)| value)
    }
}

/// Sum and count of a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) sum: f64,
    pub(super) count: f64,
}

impl Totals {
    /// What came after `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            sum: self.sum - earlier.sum,
            count: self.count - earlier.count,
        }
    }

    /// The mean of a histogram of seconds; none without an observation.
    pub(super) fn mean(self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.sum / self.count).ok()
    }
}

/// The samples of a scrape.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

/// The sum over all series of a metric that `wanted` picks.
pub(super) fn total(text: &str, name: &str, wanted: impl Fn(&Sample<'_>) -> bool) -> f64 {
    let of_metric = samples(text).filter(|sample| sample.name == name);
    of_metric
        .filter(|sample| wanted(sample))
        .map(|sample| sample.value)
        .sum()
}

/// Sum and count over all series of a histogram that `wanted` picks.
pub(super) fn totals(text: &str, name: &str, wanted: impl Fn(&Sample<'_>) -> bool) -> Totals {
    Totals {
        sum: total(text, &format!("{name}_sum"), &wanted),
        count: total(text, &format!("{name}_count"), &wanted),
    }
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A timestamp or an exemplar may follow.
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name,
        labels,
        value,
    })
}

type Labels<'a> = Vec<(&'a str, String)>;

/// The labels, and what follows the brace that ends them.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name, value));
        rest = after;
    }
}

/// A value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    loop {
        match letters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, letter) => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_labels_and_a_number() {
        for (line, name, labels, value) in [
            ("up 1", "up", &[][..], 1.0),
            ("up 1.5e-3 1395066363000", "up", &[], 0.0015),
            ("up{} 2", "up", &[], 2.0),
            ("up{a=\"b\"} 3", "up", &[("a", "b")], 3.0),
            ("up{a=\"b\",c=\"\",} 3", "up", &[("a", "b"), ("c", "")], 3.0),
            (
                "up{a=\"}, \\\"x\\\\\\n\"} 4",
                "up",
                &[("a", "}, \"x\\\n")],
                4.0,
            ),
            (
                "le{le=\"+Inf\"} 5 # {id=\"x\"} 0.1",
                "le",
                &[("le", "+Inf")],
                5.0,
            ),
        ] {
            let labels = labels
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()));
            let labels = labels.collect();
            let wanted = Sample {
                name,
                labels,
                value,
            };
            assert_eq!(sample(line), Some(wanted), "{line}");
        }
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        for line in [
            "",
            "# HELP up 1",
            "# EOF",
            "up",
            "up one",
            "up{a=\"b\" 1",
            "up{a=\"b} 1",
            "up{a} 1",
            "up{a=\"b\\",
        ] {
            assert_eq!(sample(line), None, "{line:?}");
        }
    }

    const KUBELET: &str = "\
# TYPE dra_seconds histogram
dra_seconds_bucket{method=\"/v1/Prepare\",le=\"0.1\"} 4
dra_seconds_sum{method=\"/v1/Prepare\",code=\"OK\"} 0.25
dra_seconds_count{method=\"/v1/Prepare\",code=\"OK\"} 4
dra_seconds_sum{method=\"/v1/Prepare\",code=\"Internal\"} 0.75
dra_seconds_count{method=\"/v1/Prepare\",code=\"Internal\"} 1
dra_seconds_sum{method=\"/v1/Unprepare\",code=\"OK\"} 9
dra_seconds_count{method=\"/v1/Unprepare\",code=\"OK\"} 2
";

    #[test]
    fn a_histogram_is_summed_over_the_series_that_are_wanted() {
        let prepare = |sample: &Sample<'_>| sample.label("method").ends_with("/Prepare");
        let sum = totals(KUBELET, "dra_seconds", prepare);
        assert_eq!(
            sum,
            Totals {
                sum: 1.0,
                count: 5.0
            }
        );
        let none = totals(KUBELET, "other_seconds", |_| true);
        assert_eq!(none, Totals::default());
    }

    #[test]
    fn the_mean_is_of_what_came_after() {
        let earlier = Totals {
            sum: 1.0,
            count: 10.0,
        };
        let later = Totals {
            sum: 1.5,
            count: 20.0,
        };
        assert_eq!(later.since(earlier).mean(), Some(Duration::from_millis(50)));
        assert_eq!(earlier.since(earlier).mean(), None);
    }
}
