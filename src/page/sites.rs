//! Each site: its values with the points that stand for them, and its loss against the scale.

use maud::{Markup, html};

use super::chart::{Axis, Ink, Mark, chart, number};
use super::{Page, Section, figure, plural, table};
use crate::calibrate::{Histogram, SiteCurves, Stretch, shown_scale, values_of};
use crate::quant::Quantizer;
use crate::text::shown;

/// The colours of the metrics, in the order of [`Metric::ALL`](crate::calibrate::Metric::ALL).
const METRICS: [(Ink, &str); 4] = [
    (Ink::Blue, "Hessian"),
    (Ink::Orange, "squared error"),
    (Ink::Green, "cosine"),
    (Ink::Violet, "Pearson"),
];

/// Losses larger than so many times the least are cut off.
const MOST: f64 = 100.0;

/// The anchor of the details of curve number `index`.
pub(super) fn anchor(index: usize) -> String {
    format!("site-{index}")
}

pub(super) fn section(page: &Page) -> Option<Section> {
    if page.curves.is_empty() {
        return None;
    }
    let first_twins = ["softmax", "activation"]
        .map(|what| page.curves.iter().position(|curves| twin_of(curves) == Some(what)));
    let content = html! {
        p {
            "Histograms show the values that a site multiplies, and below them the points that stand for these values: above those of the \
             best uniform quantizer, below those of the twin. Curves show the loss against the scale, each in multiples of its own \
             least value, on a sample of rows of a few images: the search looks at all rows of its own images."
        }
        @for (index, curves) in page.curves.iter().enumerate() {
            details id=(anchor(index)) data-name=(curves.name) open[first_twins.contains(&Some(index))] {
                summary { strong { (shown(&curves.name)) } span { (curves.kind) ", " (described(curves)) } }
                div.charts {
                    @if curves.uniform.is_some() { (histogram(curves)) }
                    (losses(page, curves))
                }
            }
        }
    };
    Some(Section { id: "curves", title: "Values and scales of each site", content })
}

/// What is before a twin.
fn twin_of(curves: &SiteCurves) -> Option<&'static str> {
    match curves.found.quantizers[0] {
        Quantizer::Uniform { .. } => None,
        Quantizer::TwinSoftmax { .. } => Some("softmax"),
        Quantizer::TwinGelu { .. } => Some("activation"),
    }
}

fn described(curves: &SiteCurves) -> String {
    let quantizer = curves.found.quantizers[0];
    let head = if curves.heads > 1 { format!(" (head 0 of {})", curves.heads) } else { String::new() };
    match quantizer.twin() {
        None => format!("scale {}{head}", number(quantizer.scale().into())),
        Some(twin) => format!(
            "twin with scales {} and {}{head}",
            number(twin.fine.get().into()),
            number(twin.coarse().into())
        ),
    }
}

fn histogram(curves: &SiteCurves) -> Markup {
    let Histogram { stretch, range: [low, high], counts } = &curves.values;
    let total: u64 = counts.iter().sum::<u64>().max(1);
    let share = |count: u64| 100.0 * count as f64 / total as f64;
    let top = share(counts.iter().copied().max().unwrap_or(1)).max(f64::MIN_POSITIVE);
    let width = (high - low) / counts.len() as f64;
    let steps = counts.iter().enumerate().flat_map(|(bin, &count)| {
        let start = low + bin as f64 * width;
        [(start, share(count)), (start + width, share(count))]
    });
    let x = match stretch {
        Stretch::Linear => Axis::linear([*low, *high], "value"),
        Stretch::Log => Axis::decades([*low, *high], "value (logarithmic)"),
        Stretch::Asinh(_) => {
            Axis::with_ticks([*low, *high], ticks(*stretch, [*low, *high]), "value (stretched)")
        }
    };
    let y_ticks = [0.0, 0.5, 1.0].map(|part| (part * top, format!("{} %", number(part * top))));
    let y = Axis::with_ticks([-0.4 * top, 1.05 * top], y_ticks.to_vec(), "");
    let points = |quantizer: Quantizer| sparse(&values_of(quantizer), *stretch, [*low, *high]);
    let (twin, uniform) = (curves.found.quantizers[0], curves.uniform);
    let mut marks = vec![Mark::Area(steps.collect(), Ink::Blue)];
    if let Some(uniform) = uniform {
        marks.push(Mark::Comb(points(uniform), [-0.17 * top, -0.05 * top], Ink::Orange));
    }
    marks.push(Mark::Comb(points(twin), [-0.37 * top, -0.25 * top], Ink::Green));
    let keys = [
        (Ink::Blue, "values"),
        (Ink::Orange, "points of the uniform quantizer"),
        (Ink::Green, "points of the twin"),
    ];
    let what =
        if twin_of(curves) == Some("softmax") { "after Softmax" } else { "after the activation function" };
    let caption =
        format!("Values {what}. Points closer to one another than the drawing can show are drawn once.");
    figure(&chart(&x, &y, &marks), &keys, &caption)
}

/// Ticks at powers of ten and at zero, on both sides.
fn ticks(stretch: Stretch, [low, high]: [f64; 2]) -> Vec<(f64, String)> {
    let powers = [0.1, 1.0, 10.0, 100.0, 1000.0];
    let values = powers.iter().rev().map(|x| -x).chain([0.0]).chain(powers);
    let tick = |x: f64| (stretch.place(x as f32), number(x));
    values.map(tick).filter(|(place, _)| (low..=high).contains(place)).collect()
}

/// The places of `values` that lie in the range, without those that would be drawn over one another.
fn sparse(values: &[f32], stretch: Stretch, [low, high]: [f64; 2]) -> Vec<f64> {
    const APART: f64 = 1.0 / 180.0;
    let mut places: Vec<f64> = Vec::new();
    for place in values.iter().map(|&x| stretch.place(x)) {
        let is_new = places.last().is_none_or(|last| place - last >= APART * (high - low));
        if (low..=high).contains(&place) && is_new {
            places.push(place);
        }
    }
    places
}

fn losses(page: &Page, curves: &SiteCurves) -> Markup {
    let is_softmax = twin_of(curves) == Some("softmax");
    // The scales after Softmax are powers of two, all others lie evenly.
    let place = |quantizer: Quantizer| match f64::from(shown_scale(quantizer)) {
        scale if is_softmax => scale.log10(),
        scale => scale,
    };
    let places: Vec<f64> = curves.points.iter().map(|point| place(point.quantizers[0])).collect();
    let mut lines: Vec<(Ink, &str, Vec<f64>)> = METRICS
        .iter()
        .enumerate()
        .map(|(at, (ink, name))| (*ink, *name, curves.points.iter().map(|point| point.losses[at]).collect()))
        .collect();
    if let Some(task) = page.task_losses.get(&curves.name) {
        lines.push((Ink::Red, "distance of the model's output", task.clone()));
    }
    let low = places.iter().copied().fold(f64::INFINITY, f64::min);
    let high = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low >= high {
        return html! { p { "Its values are all alike: there is one scale." } };
    }
    let mut marks = Vec::new();
    let mut highest: f64 = 0.3;
    for (ink, _, values) in &lines {
        let least = values.iter().copied().filter(|x| *x > 0.0).fold(f64::INFINITY, f64::min);
        let height = |x: f64| (x / least).clamp(1.0, MOST).log10();
        let heights = values.iter().map(|&x| height(x));
        let points: Vec<(f64, f64)> =
            places.iter().copied().zip(heights).filter(|(_, y)| y.is_finite()).collect();
        highest = points.iter().fold(highest, |highest, (_, y)| highest.max(*y));
        marks.push(Mark::Line(points, *ink));
    }
    let found = curves.found.quantizers[0];
    marks.push(Mark::Comb(vec![place(found)], [0.0, highest], Ink::Text));
    let x = match is_softmax {
        true => Axis::decades([low, high], "scale of the small values"),
        false => Axis::linear([0.0, high], "scale"),
    };
    let multiples = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
    let step = if highest > 1.0 { 3 } else { 1 };
    let y_ticks: Vec<(f64, String)> =
        multiples.iter().step_by(step).map(|x: &f64| (x.log10(), number(*x))).collect();
    let y_ticks = y_ticks.into_iter().filter(|(place, _)| *place <= highest).collect();
    let y = Axis::with_ticks([-0.03 * highest, highest], y_ticks, "loss / least loss");
    let keys: Vec<(Ink, &str)> = lines.iter().map(|(ink, name, _)| (*ink, *name)).collect();
    let caption = format!(
        "Loss against the scale; the upright line is the scale that was found, {}.",
        number(f64::from(shown_scale(found)))
    );
    figure(&chart(&x, &y, &marks), &keys, &caption)
}

/// The channels that stay in float because they are so large.
pub(super) fn outliers(page: &Page) -> Option<Section> {
    let sites = &page.calibration.as_ref()?.sites;
    let with: Vec<_> = sites.iter().filter(|site| !site.outliers.is_empty()).collect();
    if with.is_empty() {
        return None;
    }
    let count: usize = with.iter().map(|site| site.outliers.len()).sum();
    let content = html! {
        p {
            "Some channels are at least four times larger than all others of their site. One scale would have to choose between \
             clipping them and rounding the others coarsely: " (plural(count, "channel")) " of " (plural(with.len(), "site"))
            " stay in float."
        }
        (table(&["site", "channels"], &[], &html! {
            @for site in with {
                tr {
                    td.name { (shown(&site.name)) }
                    td { (site.outliers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) }
                }
            }
        }))
    };
    Some(Section { id: "outliers", title: "Outlier channels", content })
}
