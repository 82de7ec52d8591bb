use super::*;

/// Of sums of a few hundred f64 terms.
const TOLERANCE: f64 = 1e-12;
const LABELS: usize = 6;

/// What `scripts/average_precision.py` has: the labels of each image, and the scores of both models.
fn example(images: usize) -> (Vec<Vec<u32>>, [Vec<f32>; 2]) {
    let noise = |i: usize, k: usize| (i * 37 + k * 101 + i * i * 13) % 53;
    let right = |i: usize, k: usize| usize::from((i * 29 + k * 17 + i * k * 7) % 11 < k % 4 + 1);
    let all = || (0..images).flat_map(|i| (0..LABELS).map(move |k| (i, k)));
    let float = all().map(|(i, k)| (noise(i, k) + 12 * right(i, k)) as f32 / 64.0);
    let quantized = all().map(|(i, k)| ((noise(i, k) + 9 * right(i, k)) / 4) as f32 / 64.0);
    let truth = (0..images).map(|i| (0..6).filter(|&k| right(i, k as usize) == 1).collect());
    (truth.collect(), [float.collect(), quantized.collect()])
}

fn scores(of: &[Vec<f32>; 2], given: Option<&[Vec<u32>]>) -> Scores {
    Scores::of(of[0].iter().copied(), of[1].iter().copied(), LABELS, given).unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{found}, expected {expected}");
}

/// Every threshold anew, with all items looked at.
fn naive(items: &[(f32, bool)]) -> f64 {
    let mut thresholds: Vec<f32> = items.iter().map(|(score, _)| *score).collect();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let right = items.iter().filter(|item| item.1).count() as f64;
    let at = |t: f32| {
        let chosen = items.iter().filter(|item| item.0 >= t);
        let (hits, all) = (chosen.clone().filter(|item| item.1).count() as f64, chosen.count() as f64);
        (hits / all, hits / right)
    };
    let mut recall_before = 0.0;
    let term = |t: f32| {
        let (precision, recall) = at(t);
        let step = recall - recall_before;
        recall_before = recall;
        step * precision
    };
    thresholds.into_iter().map(term).sum()
}

#[test]
fn average_precision_is_that_of_scikit_learn() {
    // scikit-learn 1.9.1 by scripts/average_precision.py.
    let expected = [
        [
            0.265_032_852_774_822,
            0.553_523_891_234_618,
            0.593_663_857_869_046,
            0.591_737_826_625_727,
            0.301_109_290_202_024,
            0.488_267_521_043_307,
        ],
        [
            0.245_289_286_034_128,
            0.488_760_582_601_853,
            0.513_501_668_901_947,
            0.502_233_055_888_25,
            0.261_725_939_220_996,
            0.432_937_073_678_05,
        ],
    ];
    let (truth, of) = example(150);
    let all = scores(&of, Some(&truth));
    for (scores, expected) in of.iter().zip(expected) {
        let found = all.precisions(scores, &truth, 0);
        for (found, expected) in found.into_iter().zip(expected) {
            close(found.unwrap(), expected);
        }
    }
    let (figures, doubt) = all.figures(Reading::LabelLogits, 150).unwrap();
    close(figures.float.unwrap(), 46.555_587_329_159_05);
    close(figures.quantized, 40.740_793_438_753_75);
    close(figures.drop(), figures.float.unwrap() - figures.quantized);
    assert_eq!((figures.occurring, figures.worst.0, doubt), (6, 3, None));
    close(figures.worst.1, 100.0 * (expected[0][3] - expected[1][3]));
}

#[test]
fn average_precision_is_the_sum_over_all_thresholds() {
    for n in 1..40usize {
        for step in [1, 3, 7] {
            let item = |i: usize| ((i * step * step) as f32 % 7.0 - 3.0, (i * 11 + step) % 5 < 2);
            let items: Vec<_> = (0..n).map(item).collect();
            match average_precision(items.clone()) {
                Some(found) => close(found, naive(&items)),
                None => assert!(items.iter().all(|(_, right)| !right)),
            }
        }
    }
    assert_eq!(average_precision(vec![(0.0, true), (-0.0, false)]), Some(0.5), "zeros are equal");
}

#[test]
fn without_labels_the_float_model_is_right() {
    let (_, [float, quantized]) = example(64);
    let logits = [float, quantized].map(|of| of.iter().map(|x| x - 0.5).collect::<Vec<f32>>());
    let (figures, doubt) = scores(&logits, None).figures(Reading::LabelLogits, 64).unwrap();
    assert_eq!((figures.float, doubt), (None, None));
    let truth: Vec<Vec<u32>> =
        logits[0].chunks(LABELS).map(|row| (0..6).filter(|&k| row[k as usize] > 0.0).collect()).collect();
    let given = scores(&logits, Some(&truth)).figures(Reading::LabelLogits, 64).unwrap().0;
    assert_eq!((given.float, given.quantized), (Some(100.0), figures.quantized));
    assert!(figures.quantized < 100.0 && figures.worst.1 > 0.0);
    // Of probabilities, the border is 0.5.
    let probabilities = logits.map(|of| of.iter().map(|x| x + 0.5).collect::<Vec<f32>>());
    let same = scores(&probabilities, None).figures(Reading::LabelProbabilities, 64).unwrap().0;
    assert_eq!(same.quantized, figures.quantized);
}

#[test]
fn parts_add_up_and_keep_every_bit_in_their_file() {
    let (truth, of) = example(90);
    let whole = scores(&of, Some(&truth));
    let mut sum = Scores::default();
    for (from, to) in [(0, 1), (1, 64), (64, 90)] {
        let part = of.clone().map(|of| of[from * LABELS..to * LABELS].to_vec());
        let part = scores(&part, Some(&truth[from..to]));
        let text = serde_json::to_string(&part).unwrap();
        let read: Scores = serde_json::from_str(&text).unwrap();
        assert!(read.is_sound(to - from) && !read.is_sound(to - from + 1));
        assert_eq!(read, part);
        sum.add(&read);
    }
    assert_eq!(sum, whole);
    let label = |label| Scores::of([0.0].into_iter(), [0.0].into_iter(), 1, Some(&[vec![label]]));
    assert_eq!(label(1).unwrap_err(), "label 1 is outside the model's labels 0 to 0");
    let sound = label(0).unwrap();
    for wrong in [
        Scores { labels: 2, ..sound.clone() },
        Scores { float: vec![f32::NAN], ..sound.clone() },
        Scores { given: Some(vec![vec![1]]), ..sound.clone() },
        Scores { labels: usize::MAX, ..sound.clone() },
    ] {
        assert!(sound.is_sound(1) && !wrong.is_sound(1), "{wrong:?}");
        assert_eq!(wrong.figures(Reading::LabelLogits, 1), None);
    }
}

#[test]
fn labels_that_do_not_fit_are_doubted() {
    let (truth, of) = example(150);
    let doubt = |truth: &[Vec<u32>]| scores(&of, Some(truth)).figures(Reading::LabelLogits, 150).unwrap().1;
    assert_eq!(doubt(&truth), None);
    let turned: Vec<_> = (0..150).map(|i| truth[(i * 7 + 3) % 150].clone()).collect();
    assert!(doubt(&turned).unwrap().contains("where chance has"));
    // A model that is right, and labels that are one more; the last label is none then.
    let own: Vec<Vec<u32>> = (0..150).map(|i| vec![(i * i + i / 3) as u32 % 5]).collect();
    let sure: Vec<f32> =
        own.iter().flat_map(|set| (0..6).map(|k| f32::from(u8::from(k == set[0])))).collect();
    let of = [sure.clone(), sure];
    let more: Vec<Vec<u32>> = own.iter().map(|set| vec![set[0] + 1]).collect();
    let found = scores(&of, Some(&more)).figures(Reading::LabelProbabilities, 150).unwrap().1.unwrap();
    assert!(found.contains("off by one") && found.contains("one less"), "{found}");
    assert_eq!(scores(&of, Some(&own)).figures(Reading::LabelProbabilities, 150).unwrap().1, None);
}

#[test]
fn chance_is_the_mean_over_all_orders() {
    // All 4! orders of two right and two wrong items, by their positions.
    let mut sum = 0.0;
    let mut count = 0;
    for first in 0..4 {
        for second in (0..4).filter(|&second| second != first) {
            let items = (0..4).map(|at| (-(at as f32), at == first || at == second)).collect();
            sum += average_precision(items).unwrap();
            count += 1;
        }
    }
    close(by_chance(2, 4), sum / f64::from(count));
    close(by_chance(1, 1), 1.0);
}
