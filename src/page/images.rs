//! The images that a person should look at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::chart::number;
use super::{Page, Section, plural};
use crate::check::{Answer, NotableImage};
use crate::text::shown;

pub(super) fn section(page: &Page) -> Option<Section> {
    let comparison = &page.check.as_ref()?.comparison;
    let (changed, farthest) = (&comparison.changed_images, &comparison.farthest_images);
    if farthest.is_empty() {
        return None;
    }
    let count = comparison
        .classifier
        .map(|classes| (comparison.images as f64 * (1.0 - classes.agreement / 100.0)).round() as usize);
    let gives_one_class = farthest.iter().any(|image| image.float.is_some());
    let distance = match comparison.classifier.is_some() || comparison.labels.is_some() {
        true => "Distance is the KL divergence from the float model, in nats.",
        false => "Distance is the squared error relative to the squares of the float output.",
    };
    let content = html! {
        @if gives_one_class {
            h3 { "Another class than the float model's" }
            p {
                (plural(count.unwrap_or(0), "image")) " of " (comparison.images) " changed class"
                @if changed.len() < count.unwrap_or(0) { "; the " (changed.len()) " with the largest distance are shown" }
                "."
            }
            (cards(page, changed))
        }
        h3 { "The largest distance from the float model" }
        p { (distance) }
        (cards(page, farthest))
    };
    Some(Section { id: "images", title: "Images to look at", content })
}

fn cards(page: &Page, images: &[NotableImage]) -> Markup {
    let class = |class: usize| match page.class_names.get(class) {
        Some(name) => shown(name).into_owned(),
        None => format!("class {class}"),
    };
    let answer = |answer: Answer| format!("{} ({:.1} %)", class(answer.class), 100.0 * answer.probability);
    html! {
        ul.images {
            @for image in images {
                li {
                    @if let Some(jpeg) = page.thumbnails.get(&image.name) {
                        img src={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) } alt={ "what the model sees of " (shown(&image.name)) }
                            width="96" height="96";
                    }
                    div {
                        strong { (shown(&image.name)) }
                        dl {
                            @if let Some(float) = image.float { dt { "float" } dd { (answer(float)) } }
                            @if let Some(quantized) = image.quantized { dt { "quantized" } dd { (answer(quantized)) } }
                            @if let Some(label) = image.label { dt { "label" } dd { (class(label as usize)) } }
                            dt { "distance" } dd { (number(image.distance)) }
                        }
                    }
                }
            }
        }
    }
}
