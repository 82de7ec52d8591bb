//! The sums behind a comparison, over any number of images.

use ndarray::{ArrayD, ArrayViewD, Axis};

use super::{
    Accuracy, Classifier, Comparison, Labels, Numbers, SiteFigures, SiteOutput, Sqnr, TopK, binary_kl,
    cosine, kl, probability_kl, rank, top,
};
use crate::engine::Reading;
use crate::{Error, Result};

/// Sums over some images.
#[derive(Default)]
pub(super) struct Tally {
    images: usize,
    /// Top-1 and top-5 hits.
    float: [usize; 2],
    quantized: [usize; 2],
    /// Of classes: how often they agree, of how many times.
    agree: [usize; 2],
    kl: f64,
    cosine: f64,
    output: Sqnr,
    /// By number: `Σo` and `Σo²`.
    numbers: Vec<[f64; 2]>,
    largest_error: f64,
    sites: Vec<Sqnr>,
    reading: Reading,
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
            tally.add_image(&o, &q);
            if let Some(labels) = labels {
                tally
                    .add_label(&o, &q, labels[row])
                    .map_err(|why| Error::data(format!("image `{name}`"), why))?;
            }
        }
        Ok(tally)
    }

    fn add_image(&mut self, float: &ArrayViewD<f32>, quantized: &ArrayViewD<f32>) {
        let [o, q] = [float, quantized].map(|of| of.iter().copied().collect::<Vec<f32>>());
        self.images += 1;
        self.output += Sqnr::of(&o, &q);
        self.cosine += cosine(&o, &q);
        match self.reading {
            Reading::Logits(Some(axis)) => self.add_classes(float, quantized, axis - 1, kl),
            Reading::Probabilities => self.add_classes(float, quantized, float.ndim() - 1, probability_kl),
            Reading::LabelLogits => self.add_labels(&sigmoid(&o), &sigmoid(&q)),
            Reading::LabelProbabilities => self.add_labels(&o, &q),
            Reading::Numbers => {
                self.numbers.resize(o.len(), [0.0; 2]);
                for ((sums, &o), &q) in self.numbers.iter_mut().zip(&o).zip(&q) {
                    let (o, q) = (f64::from(o), f64::from(q));
                    *sums = [sums[0] + o, sums[1] + o * o];
                    self.largest_error = self.largest_error.max((q - o).abs());
                }
            }
            Reading::Logits(None) | Reading::Features => {}
        }
    }

    /// Every place of an image has classes along `axis`.
    fn add_classes(
        &mut self,
        float: &ArrayViewD<f32>,
        quantized: &ArrayViewD<f32>,
        axis: usize,
        kl: fn(&[f32], &[f32]) -> f64,
    ) {
        let places = float.len() / float.len_of(Axis(axis)).max(1);
        for (o, q) in float.lanes(Axis(axis)).into_iter().zip(quantized.lanes(Axis(axis))) {
            let (o, q) = (o.to_vec(), q.to_vec());
            self.kl += kl(&o, &q) / places as f64;
            self.agree[0] += usize::from(top(&o, 1) == top(&q, 1));
            self.agree[1] += 1;
        }
    }

    fn add_labels(&mut self, o: &[f32], q: &[f32]) {
        self.kl += binary_kl(o, q);
        self.agree[0] += o.iter().zip(q).filter(|(o, q)| (**o > 0.5) == (**q > 0.5)).count();
        self.agree[1] += o.len();
    }

    fn add_label(&mut self, o: &ArrayViewD<f32>, q: &ArrayViewD<f32>, label: u32) -> Result<(), String> {
        if !matches!(self.reading, Reading::Logits(Some(_)) | Reading::Probabilities) || o.ndim() != 1 {
            return Err(format!("it has a label, but the model gives {}, not one class", self.reading));
        }
        let class = label as usize;
        if class >= o.len() {
            return Err(format!("label {class} is outside the model's classes 0 to {}", o.len() - 1));
        }
        for (hits, logits) in [(&mut self.float, o), (&mut self.quantized, q)] {
            let place = rank(&logits.iter().copied().collect::<Vec<f32>>(), class);
            hits[0] += usize::from(place < 1);
            hits[1] += usize::from(place < 5);
        }
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
        self.sites.push(Sqnr::of_site(float, quantized, site.before_softmax));
        Ok(())
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.images += other.images;
        for i in 0..2 {
            self.float[i] += other.float[i];
            self.quantized[i] += other.quantized[i];
        }
        for i in 0..2 {
            self.agree[i] += other.agree[i];
        }
        self.kl += other.kl;
        self.cosine += other.cosine;
        self.output += other.output;
        self.largest_error = self.largest_error.max(other.largest_error);
        self.numbers.resize(other.numbers.len(), [0.0; 2]);
        for (sums, more) in self.numbers.iter_mut().zip(&other.numbers) {
            *sums = [sums[0] + more[0], sums[1] + more[1]];
        }
        self.sites.resize(other.sites.len(), Sqnr::default());
        for (sum, site) in self.sites.iter_mut().zip(&other.sites) {
            *sum += *site;
        }
        self.reading = other.reading;
    }

    pub(super) fn comparison(self, labelled: bool, sites: impl Iterator<Item = String>) -> Comparison {
        let n = self.images as f64;
        let percent = |hits: usize| 100.0 * hits as f64 / n;
        let top_k = |hits: [usize; 2]| TopK { top1: percent(hits[0]), top5: percent(hits[1]) };
        let (agreement, kl) = (100.0 * self.agree[0] as f64 / self.agree[1] as f64, self.kl / n);
        let is = |of: &[Reading]| of.contains(&self.reading);
        let of_classes = matches!(self.reading, Reading::Logits(Some(_)) | Reading::Probabilities);
        let of_labels = is(&[Reading::LabelLogits, Reading::LabelProbabilities]);
        Comparison {
            images: self.images,
            accuracy: labelled
                .then(|| Accuracy { float: top_k(self.float), quantized: top_k(self.quantized) }),
            classifier: of_classes.then_some(Classifier { agreement, kl }),
            labels: of_labels.then_some(Labels { agreement, kl }),
            numbers: is(&[Reading::Numbers]).then(|| self.numbers()),
            sqnr_db: self.output,
            cosine: self.cosine / n,
            sites: sites.zip(self.sites).map(|(name, sqnr_db)| SiteFigures { name, sqnr_db }).collect(),
        }
    }

    fn numbers(&self) -> Numbers {
        let n = self.images as f64;
        let spread: f64 = self.numbers.iter().map(|[sum, squares]| (squares - sum * sum / n).max(0.0)).sum();
        // Below it, the spread is what rounding left of the squares.
        let varies = spread > 1e-12 * self.output.signal;
        Numbers { r2: varies.then(|| 1.0 - self.output.noise / spread), largest_error: self.largest_error }
    }
}

fn sigmoid(logits: &[f32]) -> Vec<f32> {
    logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()
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
                    &names(1),
                    Some(&labels[at..=at]),
                )
                .unwrap(),
            );
        }
        let (whole, parts) =
            (whole.comparison(true, std::iter::empty()), parts.comparison(true, std::iter::empty()));
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
        let found = Tally::of_outputs(&o, &o, Reading::Logits(None), &names(1), None)
            .unwrap()
            .comparison(false, std::iter::empty());
        assert_eq!((found.classifier, found.accuracy), (None, None));
        assert!((found.cosine - 1.0).abs() < 1e-12);
    }

    #[test]
    fn faults_name_the_place() {
        let logits = array![[1.0, 2.0]].into_dyn();
        let check = |o: &ArrayD<f32>, q: &ArrayD<f32>, label, code, part: &str| {
            let error = Tally::of_outputs(o, q, Reading::Logits(None), &names(1), label).err().expect(part);
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
