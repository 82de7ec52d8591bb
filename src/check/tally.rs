//! The sums behind a comparison, over any number of images.

use ndarray::{ArrayD, Axis};

use super::{Accuracy, Classifier, Comparison, SiteFigures, Sqnr, TopK, cosine, kl, rank, top};
use crate::{Error, Result};

/// Sums over some images.
#[derive(Default)]
pub(super) struct Tally {
    images: usize,
    /// Top-1 and top-5 hits.
    float: [usize; 2],
    quantized: [usize; 2],
    agree: usize,
    kl: f64,
    cosine: f64,
    output: Sqnr,
    sites: Vec<Sqnr>,
    classifier: bool,
}

impl Tally {
    /// The images `names`, and whether the outputs are `logits`.
    pub(super) fn of_outputs(
        float: &ArrayD<f32>,
        quantized: &ArrayD<f32>,
        logits: bool,
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
        let mut tally = Self { classifier: logits && float.ndim() == 2, ..Self::default() };
        for (row, name) in names.iter().enumerate() {
            let values = |of: &ArrayD<f32>, model: &str| -> Result<Vec<f32>> {
                let values: Vec<f32> = of.index_axis(Axis(0), row).iter().copied().collect();
                match values.iter().find(|x| !x.is_finite()) {
                    Some(x) => Err(Error::model(model, format!("its output for `{name}` holds {x}"))),
                    None => Ok(values),
                }
            };
            let (o, q) = (values(float, "float model")?, values(quantized, "quantized model")?);
            tally.add_image(&o, &q);
            if let Some(labels) = labels {
                tally
                    .add_label(&o, &q, labels[row])
                    .map_err(|why| Error::data(format!("image `{name}`"), why))?;
            }
        }
        Ok(tally)
    }

    fn add_image(&mut self, o: &[f32], q: &[f32]) {
        self.images += 1;
        self.output += Sqnr::of(o, q);
        self.cosine += cosine(o, q);
        if self.classifier {
            self.kl += kl(o, q);
            self.agree += usize::from(top(o, 1) == top(q, 1));
        }
    }

    fn add_label(&mut self, o: &[f32], q: &[f32], label: u32) -> Result<(), String> {
        if !self.classifier {
            return Err("it has a label, but the model gives features, not classes".into());
        }
        let class = label as usize;
        if class >= o.len() {
            return Err(format!("label {class} is outside the model's classes 0 to {}", o.len() - 1));
        }
        for (hits, logits) in [(&mut self.float, o), (&mut self.quantized, q)] {
            let place = rank(logits, class);
            hits[0] += usize::from(place < 1);
            hits[1] += usize::from(place < 5);
        }
        Ok(())
    }

    /// The next site's output.
    pub(super) fn add_site(
        &mut self,
        site: &str,
        float: &ArrayD<f32>,
        quantized: &ArrayD<f32>,
    ) -> Result<()> {
        same_shape(&format!("site `{site}`"), float, quantized, "")?;
        self.sites.push(Sqnr::of(float, quantized));
        Ok(())
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.images += other.images;
        for i in 0..2 {
            self.float[i] += other.float[i];
            self.quantized[i] += other.quantized[i];
        }
        self.agree += other.agree;
        self.kl += other.kl;
        self.cosine += other.cosine;
        self.output += other.output;
        self.sites.resize(other.sites.len(), Sqnr::default());
        for (sum, site) in self.sites.iter_mut().zip(&other.sites) {
            *sum += *site;
        }
        self.classifier = other.classifier;
    }

    pub(super) fn comparison(self, labelled: bool, sites: impl Iterator<Item = String>) -> Comparison {
        let n = self.images as f64;
        let percent = |hits: usize| 100.0 * hits as f64 / n;
        let top_k = |hits: [usize; 2]| TopK { top1: percent(hits[0]), top5: percent(hits[1]) };
        Comparison {
            images: self.images,
            accuracy: labelled
                .then(|| Accuracy { float: top_k(self.float), quantized: top_k(self.quantized) }),
            classifier: self
                .classifier
                .then(|| Classifier { agreement: percent(self.agree), kl: self.kl / n }),
            sqnr_db: self.output,
            cosine: self.cosine / n,
            sites: sites.zip(self.sites).map(|(name, sqnr_db)| SiteFigures { name, sqnr_db }).collect(),
        }
    }
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
        let whole = Tally::of_outputs(&o, &q, true, &names(3), Some(&labels)).unwrap();
        let mut parts = Tally::default();
        for at in 0..3 {
            let of = |x: &ArrayD<f32>| x.slice_axis(Axis(0), (at..=at).into()).to_owned();
            parts.add(&Tally::of_outputs(&of(&o), &of(&q), true, &names(1), Some(&labels[at..=at])).unwrap());
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
        let found =
            Tally::of_outputs(&o, &o, true, &names(1), None).unwrap().comparison(false, std::iter::empty());
        assert_eq!((found.classifier, found.accuracy), (None, None));
        assert!((found.cosine - 1.0).abs() < 1e-12);
    }

    #[test]
    fn faults_name_the_place() {
        let logits = array![[1.0, 2.0]].into_dyn();
        let check = |o: &ArrayD<f32>, q: &ArrayD<f32>, label, code, part: &str| {
            let error = Tally::of_outputs(o, q, true, &names(1), label).err().expect(part);
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
