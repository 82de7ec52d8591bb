//! The sites, by what they cost.

use std::collections::HashMap;

use maud::{Markup, html};

use super::chart::{Axis, Ink, Mark, chart, number};
use super::sites::anchor;
use super::{Page, Section, figure};
use crate::analyze::Harm;
use crate::calibrate::SiteScales;
use crate::text::shown;

/// What is known of one site.
struct Row<'p> {
    name: &'p str,
    scales: Option<&'p SiteScales>,
    harm: Option<&'p Harm>,
    sqnr: Option<f64>,
}

pub(super) fn section(page: &Page) -> Option<Section> {
    let harms: &[Harm] = page.analyze.as_ref().map_or(&[], |analyze| &analyze.analysis.sites);
    let figures = page.check.as_ref().map_or(&[][..], |check| &check.comparison.sites);
    let scales = page.calibration.as_ref().map_or(&[][..], |calibration| &calibration.sites);
    let names: Vec<&String> = match () {
        () if !harms.is_empty() => harms.iter().map(|site| &site.name).collect(),
        () if !scales.is_empty() => scales.iter().map(|site| &site.name).collect(),
        () => figures.iter().map(|site| &site.name).collect(),
    };
    if names.is_empty() {
        return None;
    }
    let scales: HashMap<&str, &SiteScales> = scales.iter().map(|site| (site.name.as_str(), site)).collect();
    let harm: HashMap<&str, &Harm> = harms.iter().map(|site| (site.name.as_str(), site)).collect();
    let sqnr: HashMap<&str, f64> =
        figures.iter().filter_map(|site| Some((site.name.as_str(), site.sqnr_db.db()?))).collect();
    let mut rows = Vec::new();
    for name in names {
        let name = name.as_str();
        let (scales, harm) = (scales.get(name).copied(), harm.get(name).copied());
        rows.push(Row { name, scales, harm, sqnr: sqnr.get(name).copied() });
    }
    if harms.is_empty() {
        let loss = |row: &Row| row.scales.map_or(0.0, |scales| scales.loss);
        rows.sort_by(|a, b| loss(b).total_cmp(&loss(a)));
    }
    let content = html! {
        @if let Some(analyze) = &page.analyze {
            p {
                "Harm is the " (analyze.analysis.distance) " from the float model if the site alone is quantized; gain is by how much it \
                 falls if the site alone stays in float. Time is the share of the multiplications, weight the size of its codes. Loss is what \
                 the search minimized. What more bits in the same range would mend is measured for the ten sites that do most harm."
            }
        } @else {
            p { "Loss is what the search minimized: the error of the site's output, weighted by how much the model's output depends on it." }
        }
        (table(page, &rows))
        @if let Some(analyze) = &page.analyze { (predicted(harms, analyze.analysis.distance, analyze.analysis.rank_correlation)) }
    };
    Some(Section { id: "sites", title: "Sites by what they cost", content })
}

fn table(page: &Page, rows: &[Row]) -> Markup {
    let has = |of: fn(&Row) -> bool| rows.iter().any(of);
    let (with_harm, with_scales, with_sqnr) =
        (has(|row| row.harm.is_some()), has(|row| row.scales.is_some()), has(|row| row.sqnr.is_some()));
    let kind = |row: &Row| row.harm.map(|harm| harm.kind).or(page.kinds.get(row.name).copied()).unwrap_or("");
    let cost = |row: &Row| {
        row.harm.map(|harm| harm.alone).or(row.scales.map(|scales| scales.loss)).unwrap_or(0.0).max(0.0)
    };
    let largest = rows.iter().map(cost).fold(f64::MIN_POSITIVE, f64::max);
    let mut heading = vec![("site", false), ("kind", false)];
    let few_bits =
        has(|row| row.harm.is_some_and(|harm| harm.lhs_in_8_bits.or(harm.rhs_in_8_bits).is_some()));
    let of_harm = [("block", true), ("harm", true), ("gain", true), ("time", true), ("weight", true)];
    heading.extend(with_harm.then_some(of_harm).into_iter().flatten());
    heading
        .extend(few_bits.then_some([("lhs in 8 bits", true), ("rhs in 8 bits", true)]).into_iter().flatten());
    heading.extend(with_scales.then_some([("loss", true), ("bits", true)]).into_iter().flatten());
    heading.extend(with_sqnr.then_some(("SQNR in dB", true)));
    let number_cell = |value: Option<f64>| {
        let sorted = value.map_or(String::new(), |x| x.to_string());
        html! { td.num data-value=(sorted) { (value.map_or(String::new(), number)) } }
    };
    let with_unit = |value: Option<f64>, unit: &str| {
        let sorted = value.map_or(String::new(), |x| x.to_string());
        let text = value.filter(|x| *x > 0.0).map_or(String::new(), |x| format!("{x:.1} {unit}"));
        html! { td.num data-value=(sorted) { (text) } }
    };
    html! {
        div.filter { label { "Show sites whose name has " input type="search" data-of="#sites tbody tr, #curves details"; } }
        div.scroll tabindex="0" role="region" aria-label="sites" {
            table.sortable {
                thead { tr { @for (name, is_number) in heading {
                    th.num[is_number] scope="col" { button type="button" { (name) } }
                } } }
                tbody {
                    @for row in rows {
                        tr data-name=(row.name) {
                            td.name data-value=(row.name) {
                                @match page.curves.iter().position(|curves| curves.name == row.name) {
                                    Some(index) => a href={ "#" (anchor(index)) } { (shown(row.name)) },
                                    None => (shown(row.name)),
                                }
                                span.share style={ "width:" (format!("{:.1}", 100.0 * cost(row) / largest)) "%" } {}
                            }
                            td { (kind(row)) }
                            @if with_harm {
                                td.num { @if let Some(block) = row.harm.and_then(|harm| harm.block) { (block) } }
                                (number_cell(row.harm.map(|harm| harm.alone)))
                                (number_cell(row.harm.map(|harm| harm.gain)))
                                (with_unit(row.harm.and_then(|harm| harm.share), "%"))
                                (with_unit(row.harm.map(|harm| harm.weight_bytes[0] as f64 / 1e3), "kB"))
                            }
                            @if few_bits {
                                (number_cell(row.harm.and_then(|harm| harm.lhs_in_8_bits)))
                                (number_cell(row.harm.and_then(|harm| harm.rhs_in_8_bits)))
                            }
                            @if with_scales {
                                (number_cell(row.scales.map(|scales| scales.loss)))
                                td.num { @if let Some(scales) = row.scales {
                                    "w" (scales.b_bits.get()) " a" (scales.a[0].bits().get())
                                } }
                            }
                            @if with_sqnr { (number_cell(row.sqnr)) }
                        }
                    }
                }
            }
        }
    }
}

/// The loss of the search against the harm that was measured.
fn predicted(harms: &[Harm], distance: &str, correlation: Option<f64>) -> Markup {
    let points: Vec<(f64, f64)> = harms
        .iter()
        .filter(|site| site.predicted > 0.0 && site.alone > 0.0)
        .map(|site| (site.predicted.log10(), site.alone.log10()))
        .collect();
    if points.len() < 3 {
        return html! {};
    }
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = points
            .iter()
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        [low.floor().max(high - 8.0), high.ceil().max(low.floor() + 1.0)]
    };
    let x = Axis::decades(range(|point| point.0), "loss of the search");
    let y = Axis::decades(range(|point| point.1), "harm alone");
    let marks: Vec<Mark> = points.iter().map(|&at| Mark::Dot(at, Ink::Blue)).collect();
    let rank = correlation.map_or(String::new(), |r| format!(" Their ranks correlate by {r:.2}."));
    let caption = format!(
        "The loss that the search found for each site, against the {distance} that was measured with the site alone quantized.{rank}"
    );
    html! { div.charts { (figure(&chart(&x, &y, &marks), &[], &caption)) } }
}
