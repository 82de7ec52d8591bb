//! How far the quantized model is from the float one.

use maud::html;

use super::chart::{Axis, Ink, Mark, chart};
use super::{Page, Section, figure, table};
use crate::check::TopK;
use crate::text::shown;

pub(super) fn section(page: &Page) -> Option<Section> {
    let check = page.check.as_ref()?;
    let comparison = &check.comparison;
    let mut rows = Vec::new();
    if let Some(accuracy) = comparison.accuracy {
        let both = |of: fn(&TopK) -> f64| {
            format!("{:.2} % (float {:.2} %)", of(&accuracy.quantized), of(&accuracy.float))
        };
        rows.push(vec!["top-1 accuracy".to_string(), both(|top| top.top1)]);
        rows.push(vec!["top-5 accuracy".to_string(), both(|top| top.top5)]);
    }
    rows.extend(check.rows());
    let content = html! {
        div.charts {
            (table(&["", "quantized against float (95 % interval)"], &[], &html! {
                @for row in &rows { tr { @for cell in row { td { (cell) } } } }
            }))
            @if let Some(accuracy) = comparison.accuracy {
                (intervals([
                    ("float", accuracy.float.top1, accuracy.float.top1_interval),
                    ("quantized", accuracy.quantized.top1, accuracy.quantized.top1_interval),
                ]))
            }
        }
        @if !comparison.others.is_empty() {
            (table(&["other output", "SQNR"], &[1], &html! {
                @for other in &comparison.others {
                    tr { td.name { (shown(&other.name)) } td.num { (other.sqnr_db) } }
                }
            }))
        }
    };
    Some(Section { id: "accuracy", title: "Accuracy", content })
}

/// Both accuracies with their intervals.
fn intervals(of: [(&str, f64, [f64; 2]); 2]) -> maud::Markup {
    let all = of.iter().flat_map(|(_, _, interval)| *interval);
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let margin = (0.15 * (high - low)).max(0.2);
    let x = Axis::linear([(low - margin).max(0.0), (high + margin).min(100.0)], "top-1 accuracy in percent");
    let places = [2.0, 1.0];
    let ticks = places.into_iter().zip(of).map(|(place, (name, ..))| (place, name.to_string())).collect();
    let y = Axis::with_ticks([0.4, 2.6], ticks, "");
    let mut marks = Vec::new();
    for ((y, (_, rate, [low, high])), ink) in places.into_iter().zip(of).zip([Ink::Text, Ink::Blue]) {
        marks.push(Mark::Line(vec![(low, y), (high, y)], ink));
        marks.extend([low, high].map(|end| Mark::Comb(vec![end], [y - 0.12, y + 0.12], ink)));
        marks.push(Mark::Dot((rate, y), ink));
    }
    let [(_, float, _), (_, quantized, _)] = of;
    let caption = format!(
        "Top-1 accuracy of the float model, {float:.2} %, and of the quantized model, {quantized:.2} %, with their intervals of \
         95 % confidence."
    );
    figure(&chart(&x, &y, &marks), &[], &caption)
}
