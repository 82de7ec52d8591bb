//! The top of the page: the verdict, what to know beside it, and the figures that most look for.

use maud::{Markup, html};

use super::Page;
use super::chart::number;
use crate::check::Verdict;
use crate::text::shown;

/// What the page is about.
pub(super) fn title(page: &Page) -> String {
    if let Some(quantize) = &page.quantize {
        return format!("{} → {}", name(&quantize.model), name(&quantize.output));
    }
    if let Some(check) = &page.check {
        return format!("{} against {}", name(&check.quantized), name(&check.float));
    }
    page.analyze
        .as_ref()
        .map_or("onnx-ptq4vit".into(), |analyze| format!("The sites of {}", name(&analyze.model)))
}

/// The last part of a path.
fn name(path: &str) -> String {
    shown(path.rsplit(['/', '\\']).next().unwrap_or(path)).into_owned()
}

/// One sentence that says it all.
pub(super) fn verdict(page: &Page) -> Markup {
    let judged = page.check.as_ref().and_then(|check| check.verdict.as_ref());
    let class = match judged {
        Some(Verdict { passed: true, .. }) => "verdict pass",
        Some(Verdict { passed: false, .. }) => "verdict fail",
        None => "verdict",
    };
    html! {
        div class=(class) {
            @if let Some(verdict) = judged { strong { (if verdict.passed { "PASS" } else { "FAIL" }) } }
            p { (sentence(page)) }
        }
    }
}

fn sentence(page: &Page) -> String {
    if let Some(check) = &page.check {
        let headline = check.headline();
        let rest = headline.strip_prefix("PASS: ").or(headline.strip_prefix("FAIL: ")).unwrap_or(&headline);
        let mut letters = rest.chars();
        let first = letters.next().map_or(String::new(), |first| first.to_uppercase().collect());
        return format!("{first}{}.", letters.as_str());
    }
    if let Some(analyze) = &page.analyze {
        let analysis = &analyze.analysis;
        let worst = analysis.sites.first().map_or(String::new(), |worst| {
            format!(
                "; the site that does most harm alone is {} ({})",
                shown(&worst.name),
                number(worst.alone)
            )
        });
        return format!(
            "The {} from the float model is {} with all {} sites quantized, on {} images{worst}.",
            analysis.distance,
            number(analysis.all),
            analysis.sites.len(),
            analysis.images
        );
    }
    page.quantize.as_ref().map_or(String::new(), |quantize| {
        let share = quantize.multiplications.map_or(String::new(), |count| {
            format!("; {:.1} % of the multiplications are integer", count.integer_percent())
        });
        format!(
            "{} sites are quantized{share}. How accurate the result is was not measured: the command check does it.",
            quantize.sites
        )
    })
}

/// Doubts, and what was warned of.
pub(super) fn notes(page: &Page) -> Markup {
    let check = page.check.as_ref();
    let doubts = check.iter().flat_map(|check| &check.comparison.doubts);
    let criteria = check.iter().flat_map(|check| check.verdict.iter()).flat_map(|verdict| &verdict.criteria);
    let few = criteria.filter(|criterion| criterion.too_few_to_tell);
    let mut warnings: Vec<&String> = Vec::new();
    let of = [
        page.quantize.as_ref().map(|quantize| &quantize.warnings),
        check.map(|check| &check.warnings),
        check.map(|check| &check.comparison.remarks),
        page.analyze.as_ref().map(|analyze| &analyze.warnings),
    ];
    for warning in of.into_iter().flatten().flatten() {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    html! {
        ul.notes {
            @for doubt in doubts { li.doubt { strong { "Not to be trusted: " } (shown(doubt)) } }
            @for criterion in few {
                li { "There are too few images to tell: the " (criterion.of) " may be on either side of the threshold." }
            }
            @for warning in warnings { li { strong { "Warning: " } (shown(warning)) } }
        }
    }
}

/// Size, share, accuracy and speed.
pub(super) fn tiles(page: &Page) -> Markup {
    let mut tiles: Vec<(&str, String, String)> = Vec::new();
    let mut tile = |name, value: String, more: String| tiles.push((name, value, more));
    if let Some(check) = &page.check {
        let comparison = &check.comparison;
        if let Some(accuracy) = comparison.accuracy {
            let (float, quantized) = (accuracy.float.top1, accuracy.quantized.top1);
            tile("top-1 accuracy", format!("{quantized:.2} %"), format!("float {float:.2} %"));
        }
        if let Some(classes) = comparison.classifier {
            let interval = classes
                .agreement_interval
                .map_or(String::new(), |[low, high]| format!("95 % interval {low:.2} to {high:.2}"));
            tile("same class as float", format!("{:.2} %", classes.agreement), interval);
            tile("KL divergence", number(classes.kl), "nats, from the float model".into());
        }
        if let Some(features) = comparison.features {
            let (percent, [low, high]) = features.same_neighbour;
            tile("same neighbour", format!("{percent:.2} %"), format!("95 % interval {low:.2} to {high:.2}"));
            tile("mean cosine", format!("{:.4}", comparison.cosine), "with the float output".into());
        }
        if comparison.classifier.is_none() {
            tile("SQNR", comparison.sqnr_db.to_string(), "of the output".into());
        }
    }
    if let Some(quantize) = &page.quantize {
        let mb = |bytes: u64| format!("{:.2} MB", bytes as f64 / 1e6);
        tile("file", mb(quantize.bytes_after), format!("float {}", mb(quantize.bytes_before)));
        if let Some(count) = quantize.multiplications {
            let more = format!("of the multiplications, in {} sites", quantize.sites);
            tile("integer", format!("{:.1} %", count.integer_percent()), more);
        }
    }
    if let Some(speed) = &page.speed {
        let times = format!("{:.2} ms", speed.quantized);
        let more = format!(
            "float {:.2} ms, {:.2} times as fast; {}",
            speed.float,
            speed.float / speed.quantized,
            speed.how
        );
        tile("time for an image", times, more);
    }
    if let Some(analyze) = &page.analyze {
        tile("sites", analyze.analysis.sites.len().to_string(), "products of two matrices".into());
    }
    html! {
        @if !tiles.is_empty() {
            dl.tiles {
                @for (name, value, more) in &tiles {
                    div { dt { (name) } dd { (value) @if !more.is_empty() { small { (more) } } } }
                }
            }
        }
    }
}
