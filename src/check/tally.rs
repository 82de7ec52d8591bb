//! The sums behind a comparison, over any number of images.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use ndarray::{ArrayD, ArrayViewD, Axis};
use serde::{Deserialize, Serialize};

use super::boxes::BoxCounts;
use super::figures::{Powers, first_place, sigmoid};
use super::notable::{Answer, Notable, NotableImage};
use super::precision::Scores;
use super::{SiteOutput, Sqnr, binary_kl, cosine, kl, probability_kl, rank};
use crate::engine::Reading;
use crate::{Error, Result};

/// A float model that gives no class more is unsure of an image, if it has many classes.
pub(super) const UNSURE: f64 = 0.2;

/// Sums over some images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) images: usize,
    pub(super) reading: Reading,
    /// Top-1 and top-5 hits.
    pub(super) float: [usize; 2],
    pub(super) quantized: [usize; 2],
    /// Images whose class only the float model gets right, and only the quantized one.
    pub(super) only: [usize; 2],
    /// What the hits of the float model would be if labels were one less, and one more.
    pub(super) shifted: [usize; 2],
    /// Of classes or labels: how often they agree, of how many times.
    pub(super) agree: [usize; 2],
    /// Of the images: those that agree at every place.
    pub(super) alike: usize,
    /// By label, how many images agree.
    pub(super) of_label: Vec<usize>,
    /// Of labels, what both models give.
    #[serde(default)]
    pub(super) scores: Scores,
    /// Of a detector.
    #[serde(default)]
    pub(super) boxes: Option<BoxCounts>,
    /// By class, at how many places both models give it, and at how many one does.
    pub(super) overlap: BTreeMap<usize, [u64; 2]>,
    pub(super) kl: f64,
    pub(super) cosine: f64,
    pub(super) output: Powers,
    /// Elements of the output.
    pub(super) elements: usize,
    /// By number: `Σo` and `Σo²`.
    pub(super) numbers: Vec<[f64; 2]>,
    pub(super) largest_error: f64,
    /// How many classes or labels there are.
    pub(super) classes: usize,
    /// Images of which the float model is unsure.
    pub(super) unsure: usize,
    /// What the float model decides for the first image, and whether it decides otherwise for another.
    pub(super) decision: Option<Vec<usize>>,
    pub(super) decisions_vary: bool,
    /// A hash of the float model's output for the first image, and whether another one differs.
    pub(super) first: Option<u64>,
    pub(super) outputs_vary: bool,
    /// Of features: images whose nearest neighbour is the same, of those that have one.
    pub(super) neighbours: [usize; 2],
    /// The other outputs.
    pub(super) others: Vec<Powers>,
    pub(super) sites: Vec<Powers>,
    pub(super) notable: Notable,
}

impl Tally {
    /// The images `names`, and how the outputs are read.
    pub(super) fn of_outputs(
        float: &ArrayD<f32>,
        quantized: &ArrayD<f32>,
        reading: Reading,
        names: &[String],
        labels: Option<&[u32]>,
    ) -> Result<Self> {
        same_shape("output", float, quantized, "; are they the same network?")?;
        if float.ndim() == 0 || float.shape()[0] != names.len() {
            let shape = float.shape();
            return Err(Error::model(
                "output",
                format!("expected one for each image, found the shape {shape:?}"),
            ));
        }
        let reading = match reading {
            Reading::Logits(None) if float.ndim() == 2 => Reading::Logits(Some(1)),
            Reading::Logits(axis) if axis.is_none_or(|axis| axis == 0 || axis >= float.ndim()) => {
                Reading::Features
            }
            Reading::Probabilities if float.ndim() < 2 => Reading::Features,
            reading => reading,
        };
        let mut tally = Self { reading, ..Self::default() };
        for (row, name) in names.iter().enumerate() {
            let [o, q] = [float, quantized].map(|of| of.index_axis(Axis(0), row));
            for (values, model) in [(&o, "float model"), (&q, "quantized model")] {
                if let Some(x) = values.iter().find(|x| !x.is_finite()) {
                    return Err(Error::model(model, format!("its output for `{name}` holds {x}")));
                }
            }
            let mut of_image = Self { reading, ..Self::default() };
            of_image.count_image(&o, &q);
            if let Some(labels) = labels {
                of_image
                    .count_label(&o, &q, labels[row])
                    .map_err(|why| Error::data(format!("image `{name}`"), why))?;
            }
            let image = of_image.notable_image(name, [&o, &q], labels.map(|labels| labels[row]));
            tally.add(&Self { notable: Notable::of(image), ..of_image });
        }
        Ok(tally)
    }

    fn count_image(&mut self, float: &ArrayViewD<f32>, quantized: &ArrayViewD<f32>) {
        let [o, q] = [float, quantized].map(|of| of.iter().copied().collect::<Vec<f32>>());
        self.images = 1;
        self.elements = o.len();
        self.output = Sqnr::of(&o, &q).into();
        self.cosine = cosine(&o, &q);
        let mut hash = DefaultHasher::new();
        for x in &o {
            x.to_bits().hash(&mut hash);
        }
        self.first = Some(hash.finish());
        let errors = o.iter().zip(&q).map(|(o, q)| (f64::from(*q) - f64::from(*o)).abs());
        self.largest_error = errors.fold(0.0, f64::max);
        match self.reading {
            Reading::Logits(Some(axis)) => self.count_classes(float, quantized, axis - 1, kl),
            Reading::Probabilities => self.count_classes(float, quantized, float.ndim() - 1, probability_kl),
            Reading::LabelLogits => self.count_labels(&sigmoid(&o), &sigmoid(&q)),
            Reading::LabelProbabilities => self.count_labels(&o, &q),
            Reading::Numbers => {
                let squares = |&o: &f32| [f64::from(o), f64::from(o) * f64::from(o)];
                self.numbers = o.iter().map(squares).collect();
            }
            Reading::Logits(None) | Reading::Maps | Reading::Features => {}
        }
    }

    /// What is kept of an image that was counted.
    fn notable_image(&self, name: &str, outputs: [&ArrayViewD<f32>; 2], label: Option<u32>) -> NotableImage {
        let one_class = outputs[0].ndim() == 1;
        let answer = |output: &ArrayViewD<f32>| {
            let values: Vec<f32> = output.iter().copied().collect();
            Answer::of(&values, self.reading).filter(|_| one_class)
        };
        let distance = match self.reading {
            Reading::Numbers | Reading::Maps | Reading::Features | Reading::Logits(None) => {
                self.output.relative_noise()
            }
            _ => self.kl,
        };
        let [float, quantized] = outputs.map(answer);
        NotableImage { name: name.into(), distance, float, quantized, label }
    }

    /// Every place of an image has classes along `axis`.
    fn count_classes(
        &mut self,
        float: &ArrayViewD<f32>,
        quantized: &ArrayViewD<f32>,
        axis: usize,
        kl: fn(&[f32], &[f32]) -> f64,
    ) {
        self.classes = float.len_of(Axis(axis));
        let places = float.len() / self.classes.max(1);
        let mut decided = Vec::with_capacity(places);
        let mut sure = 0.0;
        for (o, q) in float.lanes(Axis(axis)).into_iter().zip(quantized.lanes(Axis(axis))) {
            let (o, q) = (o.to_vec(), q.to_vec());
            self.kl += kl(&o, &q) / places as f64;
            let (Some(answer), Some(other)) = (Answer::of(&o, self.reading), first_place(&q)) else {
                continue;
            };
            let own = answer.class;
            self.agree[0] += usize::from(own == other);
            self.agree[1] += 1;
            sure += answer.probability / places as f64;
            if places > 1 {
                let both = u64::from(own == other);
                self.overlap.entry(own).or_default()[0] += both;
                self.overlap.entry(own).or_default()[1] += 1;
                self.overlap.entry(other).or_default()[1] += 1 - both;
            }
            decided.push(own);
        }
        self.unsure = usize::from(sure < UNSURE);
        self.alike = usize::from(self.agree[0] == self.agree[1]);
        // Of maps, whether each image is of one class alone.
        decided.dedup();
        self.decision = Some(decided);
    }

    fn count_labels(&mut self, o: &[f32], q: &[f32]) {
        self.classes = o.len();
        self.kl = binary_kl(o, q);
        self.of_label = o.iter().zip(q).map(|(o, q)| usize::from((*o > 0.5) == (*q > 0.5))).collect();
        self.agree = [self.of_label.iter().sum(), o.len()];
        self.alike = usize::from(self.agree[0] == self.agree[1]);
        self.decision = Some((0..o.len()).filter(|&label| o[label] > 0.5).collect());
    }

    fn count_label(&mut self, o: &ArrayViewD<f32>, q: &ArrayViewD<f32>, label: u32) -> Result<(), String> {
        if !matches!(self.reading, Reading::Logits(Some(_)) | Reading::Probabilities) || o.ndim() != 1 {
            return Err(format!("it has a label, but the model gives {}, not one class", self.reading));
        }
        let class = label as usize;
        if class >= o.len() {
            let hint = if class == o.len() { "; labels count from 0" } else { "" };
            return Err(format!("label {label} is outside the model's classes 0 to {}{hint}", o.len() - 1));
        }
        let [o, q] = [o, q].map(|of| of.iter().copied().collect::<Vec<f32>>());
        for (hits, logits) in [(&mut self.float, &o), (&mut self.quantized, &q)] {
            let place = rank(logits, class);
            *hits = [usize::from(place < 1), usize::from(place < 5)];
        }
        let right = [self.float[0], self.quantized[0]];
        self.only = [right[0] & (1 - right[1]), right[1] & (1 - right[0])];
        let first = first_place(&o);
        self.shifted = [class.checked_sub(1), Some(class + 1)]
            .map(|other| usize::from(other.is_some() && other == first));
        Ok(())
    }

    /// The next output beside the one that is compared.
    pub(super) fn add_other(
        &mut self,
        name: &str,
        float: &ArrayD<f32>,
        quantized: &ArrayD<f32>,
    ) -> Result<()> {
        same_shape(&format!("output `{name}`"), float, quantized, "")?;
        self.others.push(Sqnr::of(float, quantized).into());
        Ok(())
    }

    /// The next site's output.
    pub(super) fn add_site(
        &mut self,
        site: &SiteOutput,
        float: &ArrayD<f32>,
        quantized: &ArrayD<f32>,
    ) -> Result<()> {
        same_shape(&format!("site `{}`", site.name), float, quantized, "")?;
        self.sites.push(Sqnr::of_site(float, quantized, site.before_softmax).into());
        Ok(())
    }

    /// Whether no more images are counted than there are.
    pub(super) fn is_sound(&self) -> bool {
        let counts = [self.float, self.quantized, self.only, self.shifted, self.neighbours];
        let singles = [self.alike, self.unsure];
        counts.iter().flatten().chain(&singles).chain(&self.of_label).all(|count| *count <= self.images)
            && self.agree[0] <= self.agree[1]
            && self.scores.is_sound(self.images)
            && self.boxes.is_none_or(|boxes| boxes.is_sound(self.images))
            && self.overlap.values().all(|[both, either]| both <= either)
            && self.notable.is_sound(self.images)
            && [self.agree[1], self.elements].iter().all(|count| *count <= usize::MAX >> 32)
            && self.overlap.values().all(|[_, either]| *either <= u64::MAX >> 32)
    }

    /// Adds the images behind these.
    pub(super) fn add(&mut self, other: &Self) {
        self.decisions_vary |= other.decisions_vary || (self.images > 0 && self.decision != other.decision);
        self.outputs_vary |= other.outputs_vary || (self.images > 0 && self.first != other.first);
        if self.images == 0 {
            (self.reading, self.classes) = (other.reading, other.classes);
            (self.decision, self.first) = (other.decision.clone(), other.first);
        }
        self.images += other.images;
        let counts = [
            (&mut self.float, other.float),
            (&mut self.quantized, other.quantized),
            (&mut self.only, other.only),
            (&mut self.shifted, other.shifted),
            (&mut self.agree, other.agree),
            (&mut self.neighbours, other.neighbours),
        ];
        for (own, more) in counts {
            *own = [own[0] + more[0], own[1] + more[1]];
        }
        self.alike += other.alike;
        self.elements += other.elements;
        self.unsure += other.unsure;
        self.kl += other.kl;
        self.cosine += other.cosine;
        self.output += other.output;
        self.largest_error = self.largest_error.max(other.largest_error);
        self.scores.add(&other.scores);
        if let Some(more) = &other.boxes {
            self.boxes.get_or_insert_default().add(more);
        }
        sum(&mut self.of_label, &other.of_label, |own, more| *own += more);
        sum(&mut self.numbers, &other.numbers, |own, more| *own = [own[0] + more[0], own[1] + more[1]]);
        sum(&mut self.others, &other.others, |own, more| *own += *more);
        sum(&mut self.sites, &other.sites, |own, more| *own += *more);
        self.notable.add(&other.notable);
        for (class, more) in &other.overlap {
            let own = self.overlap.entry(*class).or_default();
            *own = [own[0] + more[0], own[1] + more[1]];
        }
    }
}

/// Adds every element of `more` to that of `own`.
fn sum<T: Clone + Default>(own: &mut Vec<T>, more: &[T], add: impl Fn(&mut T, &T)) {
    own.resize(own.len().max(more.len()), T::default());
    own.iter_mut().zip(more).for_each(|(own, more)| add(own, more));
}

fn same_shape(place: &str, float: &ArrayD<f32>, quantized: &ArrayD<f32>, hint: &str) -> Result<()> {
    let (float, quantized) = (float.shape(), quantized.shape());
    if float == quantized {
        return Ok(());
    }
    Err(Error::model(
        place,
        format!("the float model gives {float:?}, the quantized model {quantized:?}{hint}"),
    ))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::super::{Comparison, Names};
    use super::*;
    use crate::ErrorKind;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("{i}.png")).collect()
    }

    #[test]
    fn images_are_counted_once_whatever_the_batch() {
        let o = array![[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [0.5, 0.25, 0.0]].into_dyn();
        let q = array![[2.0, 1.5, 0.0], [4.0, 1.0, 3.0], [0.5, 0.5, 0.0]].into_dyn();
        let labels = [0, 2, 1];
        let whole = Tally::of_outputs(&o, &q, Reading::Logits(None), &names(3), Some(&labels)).unwrap();
        let mut parts = Tally::default();
        for at in 0..3 {
            let of = |x: &ArrayD<f32>| x.slice_axis(Axis(0), (at..=at).into()).to_owned();
            parts.add(
                &Tally::of_outputs(
                    &of(&o),
                    &of(&q),
                    Reading::Logits(None),
                    &names(3)[at..=at],
                    Some(&labels[at..=at]),
                )
                .unwrap(),
            );
        }
        let names = Names::default();
        let (whole, parts) = (Comparison::of(&whole, true, &names), Comparison::of(&parts, true, &names));
        assert_eq!(whole, parts);
        assert_eq!(whole.images, 3);
        let accuracy = whole.accuracy.unwrap();
        assert_eq!((accuracy.float.top1, accuracy.quantized.top1), (200.0 / 3.0, 100.0 / 3.0));
        assert_eq!((accuracy.float.top5, accuracy.quantized.top5), (100.0, 100.0));
        // Equal logits 0.5 and 0.5: the lower class, as the float model says.
        assert_eq!(whole.classifier.unwrap().agreement, 200.0 / 3.0);
    }

    #[test]
    fn features_have_distances_only() {
        let o = array![[[1.0, 0.0], [0.0, 1.0]]].into_dyn();
        let found = Tally::of_outputs(&o, &o, Reading::Logits(None), &names(1), None).unwrap();
        let found = Comparison::of(&found, false, &Names::default());
        assert_eq!((found.classifier, found.accuracy), (None, None));
        assert!((found.cosine - 1.0).abs() < 1e-12);
    }

    #[test]
    fn faults_name_the_place() {
        let logits = array![[1.0, 2.0]].into_dyn();
        let check = |o: &ArrayD<f32>, q: &ArrayD<f32>, label, code, part: &str| {
            let error = Tally::of_outputs(o, q, Reading::Logits(None), &names(1), label).expect_err(part);
            assert_eq!(error.exit_code(), code);
            assert!(error.to_string().contains(part), "{error}");
            error
        };
        let error = check(
            &logits,
            &array![[1.0, 2.0, 3.0]].into_dyn(),
            None,
            3,
            "gives [1, 2], the quantized model [1, 3]",
        );
        assert_eq!(error.kind(), ErrorKind::Model);
        let error =
            check(&logits, &logits, Some(&[2]), 3, "`0.png`: label 2 is outside the model's classes 0 to 1");
        assert_eq!(error.kind(), ErrorKind::Data);
        check(
            &logits,
            &array![[f32::NAN, 0.0]].into_dyn(),
            None,
            3,
            "quantized model: its output for `0.png` holds NaN",
        );
        check(&array![[[1.0]]].into_dyn(), &array![[[1.0]]].into_dyn(), Some(&[0]), 3, "gives features");
    }
}
