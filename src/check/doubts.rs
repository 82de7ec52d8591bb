//! Why the figures of a comparison might not tell anything.

use super::precision::MOST_SCORES;
use super::statistics::at_least;
use super::tally::{Tally, UNSURE};
use crate::engine::Reading;

/// Why the figures say less than they seem to.
pub(super) fn doubts(tally: &Tally, labelled: bool) -> Vec<String> {
    let mut doubts = Vec::new();
    let n = tally.images;
    if n >= 2 && !tally.outputs_vary {
        doubts.push(format!("the float model gives the same output for all {n} images, whatever they show"));
    } else if n >= 2 && tally.decision.is_some() && !tally.decisions_vary {
        let what = match &tally.decision.as_deref() {
            Some([class]) => format!("{class} alone"),
            Some([]) => "none".into(),
            _ => "the same".into(),
        };
        let of = if tally.of_label.is_empty() { "class" } else { "labels" };
        doubts.push(format!(
            "the float model gives the same {of} ({what}) for all {n} images: a model that is broken could agree with it"
        ));
    }
    if tally.boxes.is_some_and(|boxes| boxes.figures(n).float == 0) {
        doubts.push(format!(
            "the float model finds no box of a probability above 0.5 in any of {n} images: there is nothing to find again"
        ));
    }
    if tally.classes == 1 && tally.of_label.is_empty() && tally.agree[1] > 0 {
        doubts.push(
            "the output has one class alone, so that every model agrees; --task regress judges its value"
                .into(),
        );
    }
    if labelled && n > 0 {
        doubts.extend(doubt_of_labels(tally));
    }
    doubts
}

/// Whether labels fit the float model.
fn doubt_of_labels(tally: &Tally) -> Option<String> {
    const CHANCE: f64 = 1e-3;
    let (n, hits) = (tally.images, tally.float[0]);
    let percent = |hits: usize| 100.0 * hits as f64 / n as f64;
    let (at, shifted) =
        [(1, tally.shifted[0]), (-1, tally.shifted[1])].into_iter().max_by_key(|(_, hits)| *hits)?;
    let p = 1.0 / tally.classes.max(2) as f64;
    let at_chance = at_least(hits, n, p) > CHANCE;
    if shifted > 2 * hits + 2 && at_least(shifted, n, p) < CHANCE {
        let change = if at == 1 { "less" } else { "more" };
        return Some(format!(
            "the labels are off by one: the float model gets {:.2} % of them right, and {:.2} % if each is one {change} (labels \
             count from 0)",
            percent(hits),
            percent(shifted)
        ));
    }
    at_chance.then(|| {
        format!(
            "the float model itself is right for {hits} of {n} images, no more than by chance: the labels, or the way in which \
             images are prepared, do not fit it (or there are too few images to tell)"
        )
    })
}

/// What the user should know, though it is no reason for doubt.
pub(super) fn remarks(tally: &Tally) -> Vec<String> {
    const NEARLY_ALL: f64 = 0.9;
    let unsure = tally.unsure as f64 >= NEARLY_ALL * tally.images as f64;
    let many_classes = tally.classes as f64 > 2.0 / UNSURE;
    let mut remarks = Vec::new();
    if unsure && many_classes && tally.images > 0 {
        remarks.push(format!(
            "the float model is unsure of {} of {} images (no class has a probability of {UNSURE}): are they prepared as it \
             was trained?",
            tally.unsure, tally.images
        ));
    }
    let of_labels = matches!(tally.reading, Reading::LabelLogits | Reading::LabelProbabilities);
    if of_labels && tally.scores.is_empty() && tally.images > 0 {
        let most = MOST_SCORES;
        remarks.push(format!("no mAP: the images have more than {most} scores of {} labels", tally.classes));
    }
    remarks
}
