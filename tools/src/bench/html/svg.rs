//! Line charts as SVG text. Lives here: axes, ticks, lines. Not here: what is drawn, and the page around it.

use std::fmt::Write as _;

use super::escape;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
/// Room for the labels of the axes.
const LEFT: f64 = 78.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 48.0;
/// Lines that are told apart by colour; a chart has no more.
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#6a3d9a", "#7f7f7f"];

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten.
    Log,
    /// Of quantiles: by the powers of ten of what is left above them, so that 99 % and 99.9 % are as far
    /// from each other as 90 % and 99 %.
    Quantile,
}

/// Name and scale of an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) scale: Scale,
    /// A value as text.
    pub(super) label: fn(f64) -> String,
}

/// A line; the points in the order of their x.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

impl Scale {
    /// A place on an endless axis; `None` where the scale has none.
    fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Scale::Linear => value,
            Scale::Log => value.log10(),
            Scale::Quantile => -(1.0 - value).log10(),
        };
        place.is_finite().then_some(place)
    }

    /// The ends of the axis for values that were placed, and the values that get a tick.
    fn ticks(self, low: f64, high: f64) -> (f64, f64, Vec<f64>) {
        match self {
            Scale::Linear => {
                let high = if high > 0.0 { high } else { 1.0 };
                let power = 10_f64.powf((high / 4.0).log10().floor());
                let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
                let step = steps.map(|step| step * power).into_iter().find(|step| high / step <= 5.0);
                let step = step.unwrap_or(10.0 * power);
                let count = (high / step).ceil() as usize;
                (0.0, step * count as f64, (0..=count).map(|index| index as f64 * step).collect())
            }
            Scale::Log => {
                let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
                let ticks = (low as i32..=high as i32).map(|power| 10_f64.powi(power)).collect();
                (low, high, ticks)
            }
            Scale::Quantile => {
                let high = high.max(1.0);
                let nines = (1..=high.floor() as i32).map(|nines| 1.0 - 10_f64.powi(-nines));
                (0.0, high, [0.0, 0.5].into_iter().chain(nines).collect())
            }
        }
    }
}

/// A chart of at least one point, as an `svg` element.
pub(super) fn chart(x: Axis, y: Axis, lines: &[Line]) -> String {
    let place = |(px, py): &(f64, f64)| Some((x.scale.place(*px)?, y.scale.place(*py)?));
    let placed: Vec<Vec<(f64, f64)>> =
        lines.iter().map(|line| line.points.iter().filter_map(place).collect()).collect();
    let span = |pick: fn(&(f64, f64)) -> f64| {
        let values = placed.iter().flatten().map(pick);
        values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let ((x_low, x_high), (y_low, y_high)) = (span(|at| at.0), span(|at| at.1));
    if x_low > x_high {
        return "<p>nothing was measured</p>".to_owned();
    }
    let (x_low, x_high, x_ticks) = x.scale.ticks(x_low, x_high);
    let (y_low, y_high, y_ticks) = y.scale.ticks(y_low, y_high);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at_x = |value: f64| LEFT + (value - x_low) / (x_high - x_low) * (right - LEFT);
    let at_y = |value: f64| bottom - (value - y_low) / (y_high - y_low) * (bottom - TOP);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    for tick in x_ticks {
        let Some(place) = x.scale.place(tick).map(at_x).filter(|place| *place <= right + 0.5) else {
            continue;
        };
        let label = escape(&(x.label)(tick));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 16.0
        );
    }
    for tick in y_ticks {
        let Some(place) = y.scale.place(tick).map(at_y) else { continue };
        let label = escape(&(y.label)(tick));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            place + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (LEFT + right) / 2.0,
        HEIGHT - 8.0,
        escape(x.name),
        (TOP + bottom) / 2.0,
        escape(y.name)
    );
    for (index, (line, places)) in lines.iter().zip(&placed).enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let places: Vec<String> =
            places.iter().map(|(px, py)| format!("{:.1},{:.1}", at_x(*px), at_y(*py))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"><title>{}</title></polyline>",
            places.join(" "),
            escape(&line.name)
        );
        // Few points are shown as such: between them nothing was measured.
        if places.len() <= 30 {
            let shown = line.points.iter().filter(|at| place(at).is_some());
            for (place, (px, py)) in places.iter().zip(shown) {
                let (cx, cy) = place.split_once(',').expect("a pair");
                let told = escape(&format!("{}: {} at {}", line.name, (y.label)(*py), (x.label)(*px)));
                let _ = writeln!(
                    out,
                    "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"><title>{told}</title></circle>"
                );
            }
        }
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, low: f64, high: f64) -> Vec<f64> {
        scale.ticks(scale.place(low).expect("a place"), scale.place(high).expect("a place")).2
    }

    #[test]
    fn ticks_are_round_and_reach_over_the_values() {
        assert_eq!(ticks(Scale::Linear, 0.0, 9.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(
            ticks(Scale::Linear, 0.0, 108_000.0),
            [0.0, 25_000.0, 50_000.0, 75_000.0, 100_000.0, 125_000.0]
        );
        assert_eq!(ticks(Scale::Linear, 0.0, 0.0).last(), Some(&1.0));
        assert_eq!(ticks(Scale::Log, 300.0, 8000.0), [100.0, 1000.0, 10_000.0]);
        assert_eq!(ticks(Scale::Log, 100.0, 100.0), [100.0, 1000.0]);
        assert_eq!(ticks(Scale::Quantile, 0.0, 0.9999), [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999]);
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        assert_eq!(Scale::Log.place(0.0), None);
        assert_eq!(Scale::Quantile.place(1.0), None);
        let axis = |scale| Axis { name: "n", scale, label: |value| value.to_string() };
        let line = Line { name: "a".into(), points: vec![(0.5, 0.0), (1.0, 10.0), (2.0, 100.0)] };
        let text = chart(axis(Scale::Linear), axis(Scale::Log), &[line]);
        let points = text.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("points");
        assert_eq!(points.split(' ').count(), 2, "{points}");
        assert!(chart(axis(Scale::Linear), axis(Scale::Log), &[]).contains("nothing was measured"));
    }
}
