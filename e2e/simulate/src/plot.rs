//! Plots as SVG, written by hand: axes, lines, bars and a legend are all that is needed.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;

/// Colours that people with every kind of sight tell apart (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// Values of one kind.
#[derive(Clone, Debug)]
pub struct Series<T> {
    /// What the legend calls them.
    pub name: String,
    /// The values.
    pub values: Vec<T>,
}

/// What stands around a plot.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the horizontal axis.
    pub across: &'a str,
    /// Beside the vertical axis.
    pub up: &'a str,
}

/// Lines through points.
pub fn lines(frame: Frame<'_>, series: &[Series<(f64, f64)>]) -> String {
    let points = || series.iter().flat_map(|series| &series.values);
    let right = points().map(|(x, _)| *x).fold(f64::MIN_POSITIVE, f64::max);
    let top = nice(points().map(|(_, y)| *y).fold(0.0, f64::max));
    let mut svg = begin(frame, top);
    for tick in 0..=5 {
        let value = right * f64::from(tick) / 5.0;
        let x = LEFT + width() * f64::from(tick) / 5.0;
        text(&mut svg, x, HEIGHT - BOTTOM + 16.0, "middle", &short(value));
    }
    for (number, series) in series.iter().enumerate() {
        let mut path = String::new();
        for (x, y) in &series.values {
            let _infallible = write!(
                path,
                "{:.1},{:.1} ",
                LEFT + x / right * width(),
                height_of(*y, top)
            );
        }
        let _infallible = writeln!(
            svg,
            r#"<polyline fill="none" stroke="{}" stroke-width="1.5" points="{}"/>"#,
            COLOURS[number % COLOURS.len()],
            path.trim_end()
        );
    }
    end(svg, series.iter().map(|series| series.name.as_str()))
}

/// Bars side by side for each category.
pub fn bars(frame: Frame<'_>, categories: &[String], series: &[Series<f64>]) -> String {
    let top = nice(
        series
            .iter()
            .flat_map(|series| &series.values)
            .copied()
            .fold(0.0, f64::max),
    );
    let mut svg = begin(frame, top);
    let step = width() / (categories.len().max(1) as f64);
    let bar = step * 0.8 / (series.len().max(1) as f64);
    for (at, category) in categories.iter().enumerate() {
        let left = LEFT + step * at as f64;
        text(
            &mut svg,
            left + step / 2.0,
            HEIGHT - BOTTOM + 16.0,
            "middle",
            category,
        );
        for (number, series) in series.iter().enumerate() {
            let value = series.values.get(at).copied().unwrap_or(0.0);
            let y = height_of(value, top);
            let _infallible = writeln!(
                svg,
                r#"<rect x="{:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"><title>{}: {}</title></rect>"#,
                left + step * 0.1 + bar * number as f64,
                bar * 0.95,
                HEIGHT - BOTTOM - y,
                COLOURS[number % COLOURS.len()],
                escaped(&series.name),
                short(value),
            );
        }
    }
    end(svg, series.iter().map(|series| series.name.as_str()))
}

fn width() -> f64 {
    WIDTH - LEFT - RIGHT
}

fn height_of(value: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - (value / top).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
}

fn begin(frame: Frame<'_>, top: f64) -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
"##
    );
    text(&mut svg, LEFT + width() / 2.0, 20.0, "middle", frame.title);
    text(
        &mut svg,
        LEFT + width() / 2.0,
        HEIGHT - 10.0,
        "middle",
        frame.across,
    );
    text(&mut svg, 8.0, 34.0, "start", frame.up);
    for tick in 0..=5 {
        let value = top * f64::from(tick) / 5.0;
        let y = height_of(value, top);
        let _infallible = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#dddddd"/>"##,
            LEFT + width()
        );
        text(&mut svg, LEFT - 6.0, y + 4.0, "end", &short(value));
    }
    svg
}

fn end<'a>(mut svg: String, names: impl Iterator<Item = &'a str>) -> String {
    for (number, name) in names.enumerate() {
        let y = TOP + 18.0 * number as f64;
        let x = WIDTH - RIGHT + 12.0;
        let colour = COLOURS[number % COLOURS.len()];
        let _infallible = writeln!(
            svg,
            r#"<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>"#
        );
        text(&mut svg, x + 16.0, y + 10.0, "start", name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escaped(words);
    let _infallible = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#
    );
}

fn escaped(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The next round number.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let step = steps.iter().find(|step| **step * power >= value);
    step.copied().unwrap_or(10.0) * power
}

fn short(value: f64) -> String {
    let digits = if value >= 10.0 || value.fract() == 0.0 {
        0
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame<'static> = Frame {
        title: "a < b",
        across: "hours",
        up: "share",
    };

    #[test]
    fn a_line_goes_from_the_left_bottom_to_the_right_top() {
        let series = Series {
            name: "x & y".to_owned(),
            values: vec![(0.0, 0.0), (10.0, 1.0)],
        };
        let svg = lines(FRAME, &[series]);
        assert!(svg.contains(r#"points="64.0,312.0 610.0,40.0""#), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn there_is_a_bar_for_every_value() {
        let series = |name: &str, values: &[f64]| Series {
            name: name.to_owned(),
            values: values.to_vec(),
        };
        let categories = ["1".to_owned(), "2".to_owned()];
        let svg = bars(
            FRAME,
            &categories,
            &[series("a", &[1.0, 2.0]), series("b", &[0.0, 0.5])],
        );
        assert_eq!(svg.matches("<title>").count(), 4);
        assert!(svg.contains("<title>b: 0.50</title>"));
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, round) in [
            (0.0, 1.0),
            (0.93, 1.0),
            (1.3, 2.0),
            (23.0, 25.0),
            (6.0, 10.0),
        ] {
            assert!((nice(value) - round).abs() < 1e-9, "{value}");
        }
    }
}
