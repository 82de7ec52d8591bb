mod float;

use super::super::metric::Row;
use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The float reference rounds its products, which may swap near-ties: losses agree to this, relatively.
const LOSS_TOLERANCE: f64 = 1e-5;

fn random(rows: usize, columns: usize, rng: &mut ChaCha8Rng, f: impl Fn(f32) -> f32) -> Matrix {
    // A sum of uniforms: bell-shaped, with mild tails.
    let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
    Matrix::from_shape_simple_fn((rows, columns), || f(uniform() + uniform() + uniform() * 3.0))
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh())
}

fn problem(a_kind: LhsKind, weight: bool, groups: &[usize], seed: u64) -> Problem {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let (images, m, k, n) = (3, 9, 13, *groups.last().unwrap());
    let f = match a_kind {
        LhsKind::Uniform => |x: f32| x,
        LhsKind::TwinSoftmax => |x: f32| (x * 4.0 - 5.0).exp().min(1.0),
        LhsKind::TwinGelu { .. } => |x: f32| gelu(x * 2.0),
    };
    let a = (0..images).map(|_| random(m, k, rng, f)).collect();
    let b = match weight {
        true => Rhs::Weight(random(k, n, rng, |x| x * 0.1)),
        false => Rhs::Activation((0..images).map(|_| random(k, n, rng, |x| x)).collect()),
    };
    let curvature = (0..images).map(|_| random(m, n, rng, |x| x * x * 1e-3)).collect();
    let starts = std::iter::once(0).chain(groups.iter().copied());
    let groups = starts.zip(groups).map(|(start, &end)| start..end).collect();
    Problem { a, a_kind, b, groups, curvature, units: vec![] }
}

fn settings(metric: Metric, k: u8, alpha: f64, rounds: usize) -> Settings {
    let bits = Bits::new(k).unwrap();
    Settings { metric, a_bits: bits, b_bits: bits, alpha, beta: 1.2, candidates: 100, rounds, share: 1.0 }
}

fn check(name: &str, mut problem: Problem, metric: Metric, k: u8, alpha: f64, rounds: usize) {
    if metric != Metric::Hessian {
        problem.curvature.clear();
    }
    let settings = settings(metric, k, alpha, rounds);
    let run = |search: Search| search.run(problem.clone(), &settings).unwrap();
    let fast = run(Search::Pruned);
    assert_eq!(fast, run(Search::Exhaustive), "{name} {metric:?} k={k}");
    let plain = float::search(&problem, &settings).unwrap();
    let difference = (fast.loss - plain.loss).abs();
    assert!(difference <= LOSS_TOLERANCE * plain.loss, "{name}: {} against {}", fast.loss, plain.loss);
}

/// Rows that carry next to nothing of the loss change nothing; where they carry all of it, they are what is searched.
#[test]
fn a_share_of_the_loss_leaves_out_the_other_rows() {
    let mut problem = problem(LhsKind::Uniform, true, &[6], 5);
    let quiet = (problem.curvature.remove(2) * 1e-9).to_shared();
    problem.a[2] *= 0.5; // The candidates depend on the largest value of all rows.
    let settings = Settings { share: 0.95, ..settings(Metric::Hessian, 6, 0.0, 3) };
    let alone = |images: std::ops::Range<usize>, curvature: Vec<Matrix>| Problem {
        a: problem.a[images].to_vec(),
        curvature,
        ..problem.clone()
    };
    let mut curvature = problem.curvature.clone();
    let loud = Search::Pruned.run(alone(0..2, curvature.clone()), &settings).unwrap();
    curvature.push(quiet);
    let all = Search::Pruned.run(alone(0..3, curvature.clone()), &settings).unwrap();
    let exhaustive = Search::Exhaustive.run(alone(0..3, curvature), &settings).unwrap();
    assert_eq!(all, exhaustive);
    assert_eq!(all.b, loud.b);
    assert_eq!(all.loss, loud.loss);
}

#[test]
fn the_pruned_search_finds_what_the_plain_loops_find() {
    let gelu = LhsKind::TwinGelu { reach: 0.169_971 };
    for k in [8, 6, 4, 2] {
        check("linear", problem(LhsKind::Uniform, true, &[7], 1), Metric::Hessian, k, 0.0, 3);
        check("qkv", problem(LhsKind::Uniform, true, &[8, 16, 24], 2), Metric::Hessian, k, 0.0, 3);
        check("channels", problem(LhsKind::Uniform, true, &[1, 2, 3, 4], 3), Metric::Mse, k, 0.0, 3);
        check("fc2", problem(gelu, true, &[10], 4), Metric::Hessian, k, 0.0, 3);
        check("scores", problem(LhsKind::Uniform, false, &[9], 5), Metric::Mse, k, 0.0, 3);
        check("values", problem(LhsKind::TwinSoftmax, false, &[9], 6), Metric::Hessian, k, 0.0, 3);
        check("base", problem(LhsKind::Uniform, true, &[12], 7), Metric::Cosine, k, 0.5, 1);
        check("pearson", problem(LhsKind::Uniform, true, &[12], 8), Metric::Pearson, k, 0.5, 2);
    }
}

#[test]
fn an_operand_of_zeros_gets_a_valid_scale() {
    let mut problem = problem(LhsKind::Uniform, true, &[4], 1);
    problem.a.iter_mut().for_each(|a| a.fill(0.0));
    check("zeros", problem, Metric::Mse, 8, 0.0, 3);
}

/// Errors that overflow leave nothing to choose: both searches take the first candidate.
#[test]
fn overflowing_errors_are_the_worst() {
    for (index, huge) in [(0, 1e22), (5, f32::MAX)] {
        let mut problem = problem(LhsKind::Uniform, true, &[4], 1);
        let Rhs::Weight(b) = &mut problem.b else { unreachable!("a weight was asked for") };
        b[[index, 1]] = huge;
        let settings = settings(Metric::Hessian, 8, 0.0, 3);
        let [fast, plain] = [Search::Pruned, Search::Exhaustive]
            .map(|search| search.run(problem.clone(), &settings).unwrap());
        assert_eq!(fast, plain);
    }
}

/// Whatever finite numbers the operands hold, both searches end alike.
#[test]
fn extreme_numbers_lead_both_searches_to_the_same_end() {
    const EXTREMES: [f32; 8] = [1e-42, 1e-30, 1e5, 1e10, 1e19, 1e22, 1e30, f32::MAX];
    let kinds = [LhsKind::Uniform, LhsKind::TwinSoftmax, LhsKind::TwinGelu { reach: 0.17 }];
    let metrics = [Metric::Hessian, Metric::Mse, Metric::Cosine, Metric::Pearson];
    let rng = &mut ChaCha8Rng::seed_from_u64(9);
    let mut overflows = 0;
    for case in 0..120 {
        let (kind, metric) = (kinds[case % 3], metrics[case / 3 % 4]);
        let groups: &[usize] = if metric.is_rowwise() || case % 5 > 0 { &[4] } else { &[1, 2, 3, 4] };
        let mut problem = problem(kind, case % 2 == 0, groups, case as u64);
        let mut pick = |count: usize| rng.next_u32() as usize % count;
        for _ in 0..=pick(3) {
            let value = EXTREMES[pick(EXTREMES.len())] * [1.0, -1.0][pick(2)];
            let image = pick(3);
            match pick(3) {
                0 if kind == LhsKind::TwinSoftmax => {}
                0 => problem.a[image][[pick(9), pick(13)]] = value,
                1 => match &mut problem.b {
                    Rhs::Weight(b) => b[[pick(13), pick(4)]] = value,
                    Rhs::Activation(b) => b[image][[pick(13), pick(4)]] = value,
                },
                _ => problem.curvature[image][[pick(9), pick(4)]] = value.abs(),
            }
        }
        if metric != Metric::Hessian {
            problem.curvature.clear();
        }
        let settings = settings(metric, [8, 6, 2][case % 3], 0.0, 3);
        let [pruned, exhaustive] = [Search::Pruned, Search::Exhaustive]
            .map(|search| search.run(problem.clone(), &settings).map_err(|error| error.to_string()));
        assert_eq!(pruned, exhaustive, "case {case}: {kind:?} {metric:?}");
        overflows += usize::from(pruned.is_err() || pruned.is_ok_and(|found| found.loss.is_infinite()));
    }
    assert!((10..110).contains(&overflows), "{overflows} of 120 overflow: the cases are on both sides");
}

#[test]
fn what_overflows_is_no_exact_match() {
    let row = Row { acc: &[1.0, 2.0], reference: &[f32::INFINITY, 1.0], curvature: &[1.0; 2] };
    for metric in [Metric::Cosine, Metric::Pearson] {
        assert!(metric.loss(&row, 0..2, 1.0).is_nan(), "{metric:?}");
    }
}
