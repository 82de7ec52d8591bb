//! The few images that a person should look at: those whose class changes, and those with the largest distance.

use serde::{Deserialize, Serialize};

use super::figures::first_place;
use crate::engine::Reading;

/// How many images with another class are kept.
const CHANGED: usize = 24;

/// How many images with the largest distance are kept.
const FARTHEST: usize = 12;

/// One image, and what both models say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NotableImage {
    /// Its name in the data.
    pub name: String,
    /// The KL divergence from the float model in nats, of classes and labels; else the squared error relative to the squares of the
    /// float output.
    pub distance: f64,
    /// The most probable class by the float model; `None` if the model does not give one class.
    pub float: Option<Answer>,
    /// The most probable class by the quantized model.
    pub quantized: Option<Answer>,
    /// Its label, if there are any.
    pub label: Option<u32>,
}

/// The class that a model gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Answer {
    /// From 0.
    pub class: usize,
    /// Its probability, from 0 to 1.
    pub probability: f64,
}

impl Answer {
    /// Of the output `values` for one image; `None` unless this is one class.
    pub(super) fn of(values: &[f32], reading: Reading) -> Option<Self> {
        let class = first_place(values)?;
        let probability = match reading {
            Reading::Logits(Some(_)) => {
                1.0 / values.iter().map(|x| f64::from(x - values[class]).exp()).sum::<f64>()
            }
            Reading::Probabilities => values[class].into(),
            _ => return None,
        };
        Some(Self { class, probability })
    }
}

/// Images by their distance, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notable {
    pub(super) changed: Vec<NotableImage>,
    pub(super) farthest: Vec<NotableImage>,
}

impl Notable {
    pub(super) fn of(image: NotableImage) -> Self {
        let class = |answer: Option<Answer>| answer.map(|answer| answer.class);
        let changed = class(image.float) != class(image.quantized);
        Self { changed: changed.then(|| image.clone()).into_iter().collect(), farthest: vec![image] }
    }

    /// Adds those of other images. The result does not depend on the order.
    pub(super) fn add(&mut self, other: &Self) {
        for (own, more, most) in
            [(&mut self.changed, &other.changed, CHANGED), (&mut self.farthest, &other.farthest, FARTHEST)]
        {
            own.extend(more.iter().cloned());
            own.sort_by(|a, b| b.distance.total_cmp(&a.distance).then_with(|| a.name.cmp(&b.name)));
            own.truncate(most);
        }
    }

    /// Whether there are no more than are kept, of so many images.
    pub(super) fn is_sound(&self, images: usize) -> bool {
        self.changed.len() <= CHANGED.min(images) && self.farthest.len() <= FARTHEST.min(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(index: usize, distance: f64) -> NotableImage {
        let answer = |class| Some(Answer { class, probability: 0.5 });
        let name = format!("{index:03}.png");
        NotableImage { name, distance, float: answer(index), quantized: answer(index / 2), label: None }
    }

    #[test]
    fn the_farthest_are_kept_in_any_order() {
        let images: Vec<Notable> =
            (1..100).map(|i| Notable::of(image(i, f64::from((i * 37 % 50) as u32)))).collect();
        let (mut forward, mut backward) = (Notable::default(), Notable::default());
        for (one, other) in images.iter().zip(images.iter().rev()) {
            forward.add(one);
            backward.add(other);
        }
        assert_eq!(forward, backward);
        assert_eq!((forward.changed.len(), forward.farthest.len()), (CHANGED, FARTHEST));
        assert!(forward.farthest.iter().all(|image| image.distance >= 44.0));
        assert!(forward.is_sound(99) && !forward.is_sound(3));
    }

    #[test]
    fn an_answer_has_the_probability_of_its_class() {
        let logits = Answer::of(&[0.0, 2f32.ln(), 0.0], Reading::Logits(Some(1))).unwrap();
        assert_eq!(logits.class, 1);
        assert!((logits.probability - 0.5).abs() < 1e-7);
        let given = Answer::of(&[0.25, 0.75], Reading::Probabilities).unwrap();
        assert_eq!((given.class, given.probability), (1, 0.75));
        assert_eq!(Answer::of(&[1.0], Reading::Features), None);
    }
}
