use ndarray::{Array3, array, stack};

use super::*;

fn detector(scored: Scored) -> Detector {
    let [scores, boxes] = ["logits", "pred_boxes"].map(str::to_string);
    Detector { scores, scored, boxes, centred: true, classes: None }
}

/// What both models give: scores and sides.
type Outputs = [(ArrayD<f32>, ArrayD<f32>); 2];

fn counts(detector: &Detector, [float, quantized]: &Outputs) -> Option<BoxCounts> {
    let [float, quantized] = [float, quantized].map(|(scores, boxes)| Given { scores, boxes, classes: None });
    BoxCounts::of(detector, &float, &quantized)
}

/// Two images of three boxes and two classes, and with no object three.
fn two_images() -> Outputs {
    // By image and box: the logits of two classes and of no object.
    let float = array![
        [[4.0, -2.0, -3.0], [-1.0, 5.0, 0.0], [-4.0, -3.0, 6.0]],
        [[-2.0, -3.0, 5.0], [-3.0, -2.0, 4.0], [3.0, -5.0, 1.0]]
    ];
    let mut quantized = float.clone();
    // In the first image, the second box becomes one of the first class, and the third one appears.
    quantized[[0, 1, 0]] = 6.0;
    quantized[[0, 2, 1]] = 8.0;
    let sides = array![[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.4, 0.2], [0.8, 0.8, 0.1, 0.1]];
    let sides: Array3<f32> = stack![Axis(0), sides, sides];
    let mut moved = sides.clone();
    // A third of the width: IoU (2/3)/(4/3) = 0.5, a little more to be sure of it.
    moved[[0, 0, 0]] += 0.066;
    [(float.into_dyn(), sides.into_dyn()), (quantized.into_dyn(), moved.into_dyn())]
}

#[test]
fn boxes_are_found_again_by_class_and_place() {
    // Of the last class as no object: the float model has two boxes and one, the quantized one three and one.
    let counts = counts(&detector(Scored::Logits), &two_images()).unwrap();
    let figures = counts.figures(2);
    assert!(figures.last_is_no_object);
    assert_eq!((figures.float, figures.quantized, figures.matched), (3, 4, 2));
    let [recall, precision, f1] = [figures.recall, figures.precision, figures.f1].map(Option::unwrap);
    assert_eq!([recall, precision, f1], [200.0 / 3.0, 50.0, 400.0 / 7.0]);
    let overlap = (0.2 - 0.066) / (0.2 + 0.066);
    let mean = 100.0 * (overlap + 1.0) / 2.0;
    assert!((figures.mean_iou.unwrap() - mean).abs() < 1e-4, "{figures:?}"); // f32 sides
    assert_eq!(figures.same.0, 50.0);

    // With a box that has moved further, there is one pair less.
    let mut outputs = two_images();
    outputs[1].1[[0, 0, 0]] += 0.01;
    assert_eq!(self::counts(&detector(Scored::Logits), &outputs).unwrap().figures(2).matched, 1);
    // The same outputs agree.
    let [float, _] = two_images();
    let same = self::counts(&detector(Scored::Logits), &[float.clone(), float]).unwrap().figures(2);
    assert_eq!(
        (same.recall, same.precision, same.f1, same.same.0),
        (Some(100.0), Some(100.0), Some(100.0), 100.0)
    );
    assert!((same.mean_iou.unwrap() - 100.0).abs() < 1e-9);
}

#[test]
fn what_scores_are_is_told_by_the_float_model() {
    let [float, quantized] = two_images();
    let read = |change: &dyn Fn(f32) -> f32, scored| {
        let changed = |(scores, boxes): &(ArrayD<f32>, ArrayD<f32>)| (scores.mapv(change), boxes.clone());
        counts(&detector(scored), &[changed(&float), changed(&quantized)]).unwrap().figures(2)
    };
    // The last logit is the largest of three boxes in six; below 0 it is no class that has been found.
    let logits = read(&|x| x, Scored::Logits);
    assert!(logits.last_is_no_object);
    let low = read(&|x| x - 6.5, Scored::Logits);
    assert!(!low.last_is_no_object);
    assert_eq!((low.float, low.quantized, low.f1), (0, 1, Some(0.0)), "one logit is above 0: 8 − 6.5");
    // As probabilities, of each class its own, 0.5 itself is not above.
    let each = read(&|x| if x > 3.5 { 0.75 } else { 0.5 }, Scored::Each);
    assert_eq!((each.float, each.last_is_no_object), (5, false));
    let together = read(&|x| if x > 3.5 { 0.75 } else { 0.1 }, Scored::Together);
    assert_eq!((together.float, together.last_is_no_object), (2, true));
    // A single class cannot be none.
    let sides = array![[[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.4, 0.2]]].into_dyn();
    let outputs = [[3.0, 2.0], [3.0, -2.0]]
        .map(|[first, second]| (array![[[first], [second]]].into_dyn(), sides.clone()));
    let found = counts(&detector(Scored::Logits), &outputs).unwrap().figures(1);
    assert_eq!((found.float, found.quantized, found.matched, found.last_is_no_object), (2, 1, 1, false));
}

#[test]
fn sides_are_centres_or_corners_and_classes_may_be_apart() {
    let scores = array![[0.9, 0.8, 0.3]].into_dyn();
    let corners = array![[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 1.0, 1.0]]].into_dyn();
    let [own, other] = [array![[7.0, 7.0, 1.0]], array![[7.0, 3.0, 1.0]]].map(ndarray::ArrayBase::into_dyn);
    let apart = Detector { centred: false, classes: Some("labels".into()), ..detector(Scored::Each) };
    let given = |classes| Given { scores: &scores, boxes: &corners, classes: Some(classes) };
    let found = BoxCounts::of(&apart, &given(&own), &given(&other)).unwrap().figures(1);
    assert_eq!((found.float, found.quantized, found.matched, found.mean_iou), (2, 2, 1, Some(100.0)));
    // The same numbers as centres are other boxes: width 10 around 0 and 30 around 20.
    let found = |centred| {
        let one = array![[[0.9, 0.0]]].into_dyn();
        let [a, b] = [array![[[0.0, 0.0, 10.0, 10.0]]], array![[[2.0, 0.0, 10.0, 10.0]]]]
            .map(ndarray::ArrayBase::into_dyn);
        let detector = Detector { centred, ..detector(Scored::Each) };
        counts(&detector, &[(one.clone(), a), (one, b)]).unwrap().figures(1).mean_iou.unwrap()
    };
    assert!((found(true) - 100.0 * 8.0 / 12.0).abs() < 1e-9, "moved by 2 of 10");
    assert!((found(false) - 80.0).abs() < 1e-9, "cut by 2 of 10");
}

/// All pairs that may be, the best first, each box once.
fn naive(float: &[(i64, Found)], quantized: &[(i64, Found)]) -> (usize, f64) {
    let mut pairs = Vec::new();
    for (q, (class, own)) in quantized.iter().enumerate() {
        for (f, (other_class, other)) in float.iter().enumerate() {
            let overlap = |a: usize| {
                let from = own.corners[a].max(other.corners[a]);
                (own.corners[a + 2].min(other.corners[a + 2]) - from).max(0.0)
            };
            let area = |of: &Found| (of.corners[2] - of.corners[0]) * (of.corners[3] - of.corners[1]);
            let both = overlap(0) * overlap(1);
            let iou = both / (area(own) + area(other) - both);
            if class == other_class && iou >= 0.5 {
                pairs.push((q, f, own.score, iou));
            }
        }
    }
    pairs.sort_by(|a, b| {
        b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)).then(b.3.total_cmp(&a.3)).then(a.1.cmp(&b.1))
    });
    let (mut count, mut sum) = (0, 0.0);
    while let Some(&(q, f, _, iou)) = pairs.first() {
        (count, sum) = (count + 1, sum + iou);
        pairs.retain(|pair| pair.0 != q && pair.1 != f);
    }
    (count, sum)
}

#[test]
fn pairs_are_those_of_the_largest_scores() {
    let mut pairs = 0;
    for seed in 0..200usize {
        // Few places and scores: boxes overlap, and scores are equal.
        let number = |i: usize, of: usize| ((i * 7919 + seed * 104_729 + i * i * seed * 31) >> 3) % of;
        let boxes = |first: usize, count: usize| {
            let found = |i: usize| {
                let [x, y] = [number(5 * i, 6), number(5 * i + 1, 4)].map(|at| at as f64);
                let [w, h] = [number(5 * i + 2, 3) + 4, number(5 * i + 3, 3) + 4].map(|side| side as f64);
                let score = 0.6 + 0.1 * number(5 * i + 4, 3) as f64;
                (number(i, 2) as i64, Found { score, corners: [x, y, x + w, y + h] })
            };
            (first..first + count).map(found).collect::<Vec<_>>()
        };
        let (float, quantized) = (boxes(0, seed % 9), boxes(20, 1 + seed % 7));
        let by_class = |all: &[(i64, Found)]| {
            let mut map: BTreeMap<i64, Vec<Found>> = BTreeMap::new();
            for (class, found) in all {
                map.entry(*class).or_default().push(*found);
            }
            map
        };
        let found = Matches::of(&by_class(&float), &by_class(&quantized));
        let (count, iou) = naive(&float, &quantized);
        assert_eq!(
            (found.float, found.quantized, found.pairs),
            (float.len(), quantized.len(), count),
            "{seed}"
        );
        assert!((found.iou - iou).abs() < 1e-9, "{seed}: {} and {iou}", found.iou);
        assert_eq!(found.alike == 1, count == float.len() && count == quantized.len());
        pairs += count;
    }
    assert!(pairs > 200, "{pairs}");
}

#[test]
fn what_has_no_boxes_has_no_figures() {
    let detector = detector(Scored::Logits);
    let [float, quantized] = two_images();
    let low = |(scores, boxes): (ArrayD<f32>, ArrayD<f32>)| (scores.mapv(|_| -9.0), boxes);
    let none = counts(&detector, &[low(float.clone()), low(quantized.clone())]).unwrap().figures(2);
    assert_eq!((none.recall, none.precision, none.f1, none.mean_iou), (None, None, None, None));
    for shape in [vec![2, 3], vec![2, 4, 4], vec![2, 3, 5], vec![2, 12], vec![3, 4]] {
        let boxes = ArrayD::zeros(shape.clone());
        assert_eq!(counts(&detector, &[(float.0.clone(), boxes), quantized.clone()]), None, "{shape:?}");
    }
    let scores = ArrayD::zeros(vec![2, 3]);
    assert_eq!(counts(&detector, &[(scores, float.1.clone()), quantized]), None, "no classes");
}

#[test]
fn parts_add_up_and_are_sound() {
    let detector = detector(Scored::Logits);
    let outputs = two_images();
    let whole = counts(&detector, &outputs).unwrap();
    let mut sum = BoxCounts::default();
    for at in 0..2 {
        let cut = |of: &ArrayD<f32>| of.slice_axis(Axis(0), (at..at + 1).into()).to_owned();
        let part = outputs.clone().map(|(scores, boxes)| (cut(&scores), cut(&boxes)));
        let part = counts(&detector, &part).unwrap();
        let text = serde_json::to_string(&part).unwrap();
        sum.add(&serde_json::from_str(&text).unwrap());
    }
    assert_eq!(sum, whole);
    assert!(whole.is_sound(2));
    let own = whole.shared;
    for wrong in [
        Matches { pairs: 5, ..own },
        Matches { iou: f64::NAN, ..own },
        Matches { iou: 9.0, ..own },
        Matches { alike: 3, ..own },
        Matches { float: usize::MAX, ..own },
    ] {
        assert!(!BoxCounts { shared: wrong, ..whole }.is_sound(2), "{wrong:?}");
    }
    assert!(!BoxCounts { nothing: [7, 6], ..whole }.is_sound(2));
}
