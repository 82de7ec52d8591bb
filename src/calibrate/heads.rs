//! Channels of attention of unlike range: the projections give them other ranges, which cancel.
//!
//! - `Q·Kᵀ = (Q·diag(r))·(K·diag(r)⁻¹)ᵀ`, and a Softmax forgets what is added to a row of scores: `K` may be shifted.
//! - `P·V = (P·(V − s)·diag(r)⁻¹)·diag(r) + s`, where the rows of `P` sum to one; the projection behind takes `r` and `s` back.
//!
//! The scales of the columns of the projections, and their biases, change; their codes do not.

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::calibration::SiteScales;
use super::fold::{Fold, Span, powers};
use super::linear::{self, own_bias};
use super::problems::Solver;
use super::search::{Matrix, Problem, Rhs, Search, Settings};
use crate::Result;
use crate::plan::{Plan, ScoresLink, Source, ValuesLink};
use crate::quant::{Bits, Quantizer, Scale};
use crate::runtime::matmul;

/// The powers of its range by which a channel may be divided.
const STRENGTHS: [f64; 3] = [0.0, 0.5, 1.0];

/// Folds are judged by every so many-th image.
const STRIDE: usize = 4;

/// The scales tried to judge the values behind attention, in percent of the largest one.
const PERCENTS: std::ops::RangeInclusive<usize> = 20..=100;

/// What rounding in turn and narrower scales leave of the error of weights, by measurement.
const IN_TURN: f64 = 0.4;

/// Changes the ranges of the channels of product number `index`, where that makes the loss less: of its `problems`, one per
/// head, and of the sites that are `done`. Gives what changed, channel after channel of all heads.
pub(super) fn fold(
    solver: &mut Solver,
    index: usize,
    problems: &mut [Problem],
    settings: &Settings,
    done: &mut [SiteScales],
) -> Result<Option<Fold>> {
    let (heads, plan) = (problems.len(), solver.plan);
    let fits = |source: &Source, channels: usize| source.columns.dim() == (heads, channels);
    if let Some(link) = plan.heads.scores.iter().find(|link| link.site == index) {
        let channels = problems[0].a[0].ncols();
        if !fits(&link.query, channels) || !fits(&link.key, channels) {
            return Ok(None);
        }
        return scores(solver, link, problems, settings, done);
    }
    match plan.heads.values.iter().find(|link| link.site == index) {
        Some(link) if fits(&link.value, problems[0].b.matrices()[0].ncols()) => {
            values(solver, link, problems, settings, done)
        }
        _ => Ok(None),
    }
}

/// Applies what [`fold`] gave for product number `index` to its problems, one per head.
pub(super) fn apply(plan: &Plan, index: usize, fold: &Fold, problems: &mut [Problem]) {
    let link = plan.heads.values.iter().find(|link| link.site == index);
    for (head, problem) in problems.iter_mut().enumerate() {
        if let Some(link) = link {
            let rows = link.rows.row(head);
            let shift = rows.iter().map(|&row| fold.shift.get(row).copied().unwrap_or(0.0)).collect();
            fold_values(problem, &Fold { shift, scale: rows.iter().map(|&row| fold.scale[row]).collect() });
        } else {
            let channels = problem.a[0].ncols();
            let of_head = |values: &[f32]| values[head * channels..(head + 1) * channels].to_vec();
            fold_scores(problem, &Fold { shift: of_head(&fold.shift), scale: of_head(&fold.scale) });
        }
    }
}

/// What may change of the columns that a projection makes.
#[derive(Clone, Copy)]
struct Freedom {
    shift: bool,
    scale: bool,
}

impl Freedom {
    fn of(solver: &Solver, source: &Source, done: &[SiteScales]) -> Self {
        let (site, scales) = (&solver.plan.sites[source.projection], done.get(source.projection));
        let has_own = scales.is_some_and(|scales| own_bias(site, scales.a_rank).is_some());
        // Each column needs a scale of its own: its heads may not share theirs with others.
        let columns = site.bias.as_ref().map_or(usize::MAX, |bias| bias.values.len());
        let each = scales
            .is_some_and(|scales| scales.b.len() == columns || site.bias.is_none() && scales.b.len() > 3);
        Self { shift: has_own, scale: each && (site.bias.is_none() || has_own) }
    }
}

fn scores(
    solver: &Solver,
    link: &ScoresLink,
    problems: &mut [Problem],
    settings: &Settings,
    done: &mut [SiteScales],
) -> Result<Option<Fold>> {
    let (query, key) = (Freedom::of(solver, &link.query, done), Freedom::of(solver, &link.key, done));
    let can_shift = key.shift && link.softmax;
    let can_scale = query.scale && key.scale;
    let mut all = Fold { shift: vec![], scale: vec![] };
    let mut changed = false;
    for problem in problems.iter_mut() {
        let channels = problem.a[0].ncols();
        let of_key = along(problem.b.matrices(), Axis(0), can_shift, settings.b_bits);
        let of_query = along(&problem.a, Axis(1), false, settings.a_bits);
        let part = some_images(problem);
        let mut best = (loss(part.clone(), settings)?, None);
        for strength in STRENGTHS {
            if strength == 0.0 && !can_shift || strength > 0.0 && !can_scale {
                continue;
            }
            let ratio =
                |(key, query): (&Span, &Span)| if query.reach > 0.0 { key.reach / query.reach } else { 0.0 };
            let ratios: Vec<f32> = of_key.iter().zip(&of_query).map(ratio).collect();
            let shift = of_key.iter().map(|span| if can_shift { span.centre } else { 0.0 }).collect();
            let fold = Fold { shift, scale: powers(&ratios, strength / 2.0) };
            let mut part = part.clone();
            fold_scores(&mut part, &fold);
            let loss = loss(part, settings)?;
            if fold.is_sound() && loss < best.0 {
                best = (loss, Some(fold));
            }
        }
        changed |= best.1.is_some();
        let fold = best.1.unwrap_or_else(|| Fold { shift: vec![0.0; channels], scale: vec![1.0; channels] });
        fold_scores(problem, &fold);
        all.shift.extend(fold.shift);
        all.scale.extend(fold.scale);
    }
    if !changed {
        return Ok(None);
    }
    let inverse: Vec<f32> = all.scale.iter().map(|scale| 1.0 / scale).collect();
    project(solver, &link.query, &[], &inverse, done)?;
    project(solver, &link.key, &all.shift, &all.scale, done)?;
    Ok(Some(all))
}

fn values(
    solver: &mut Solver,
    link: &ValuesLink,
    problems: &mut [Problem],
    settings: &Settings,
    done: &mut [SiteScales],
) -> Result<Option<Fold>> {
    let of_value = Freedom::of(solver, &link.value, done);
    let proj = &solver.plan.sites[link.proj];
    // The projection behind has three axes where the one before attention has them.
    let proj_bias = own_bias(proj, done[link.value.projection].a_rank).is_some();
    let can_shift = of_value.shift && proj_bias && link.softmax;
    let parts: Vec<Problem> = problems.iter().map(some_images).collect();
    let products: Vec<Vec<Array2<f32>>> = parts.iter().map(products).collect();
    let spans: Vec<Span> = problems
        .iter()
        .zip(&products)
        .flat_map(|(problem, products)| {
            let of_values = along(problem.b.matrices(), Axis(1), can_shift, settings.b_bits);
            let largest = |(channel, span): (usize, Span)| {
                let column = products.iter().flat_map(|product| product.column(channel));
                let reach = column.fold(0f32, |reach, x| reach.max((x - span.centre).abs()));
                Span { centre: span.centre, reach }
            };
            of_values.into_iter().enumerate().map(largest).collect::<Vec<_>>()
        })
        .collect();
    let channels = link.rows.ncols();
    let of_head = |values: &[f32], head: usize| values[head * channels..(head + 1) * channels].to_vec();
    let part_of = |fold: &Fold, head: usize| Fold {
        shift: of_head(&fold.shift, head),
        scale: of_head(&fold.scale, head),
    };
    let weight = linear::weight(solver.graph, proj)?;
    let bits = solver.bits[link.proj].b;
    let in_turn = solver.options.rounds_in_turn(bits);
    let judge = |fold: &Fold| -> Result<f64> {
        let mut sum = behind(&parts, &products, fold, settings.a_bits);
        sum += weighed(&parts, &products, fold, &weight, link, (bits, in_turn));
        for (head, part) in parts.iter().enumerate() {
            let mut part = part.clone();
            fold_values(&mut part, &part_of(fold, head));
            sum += loss(part, settings)?;
        }
        Ok(sum)
    };
    let none = Fold { shift: vec![0.0; spans.len()], scale: vec![1.0; spans.len()] };
    let mut best = (judge(&none)?, None);
    for strength in STRENGTHS {
        if strength == 0.0 && !can_shift || strength > 0.0 && !of_value.scale {
            continue;
        }
        let reaches: Vec<f32> = spans.iter().map(|span| span.reach).collect();
        let shift = spans.iter().map(|span| if can_shift { span.centre } else { 0.0 }).collect();
        let fold = Fold { shift, scale: powers(&reaches, strength) };
        if !fold.is_sound() {
            continue;
        }
        let loss = judge(&fold)?;
        if loss < best.0 {
            best = (loss, Some(fold));
        }
    }
    let Some(fold) = best.1 else { return Ok(None) };
    for (head, problem) in problems.iter_mut().enumerate() {
        fold_values(problem, &part_of(&fold, head));
    }
    project(solver, &link.value, &fold.shift, &fold.scale, done)?;
    // In the order of the channels that the projection behind takes.
    let mut moved = none;
    for (channel, &row) in link.rows.iter().enumerate() {
        (moved.shift[row], moved.scale[row]) = (fold.shift[channel], fold.scale[channel]);
    }
    if !can_shift {
        moved.shift.clear();
    }
    solver.set_fold(link.proj, moved.clone());
    Ok(Some(moved))
}

/// Makes a projection give `(x − shift) / scale` in place of the channels x; `shift` is empty for none.
fn project(
    solver: &Solver,
    source: &Source,
    shift: &[f32],
    scale: &[f32],
    done: &mut [SiteScales],
) -> Result<()> {
    let site = &solver.plan.sites[source.projection];
    let scales = &mut done[source.projection];
    if scales.bias.is_none() {
        scales.bias = own_bias(site, scales.a_rank).cloned();
    }
    for (channel, &column) in source.columns.iter().enumerate() {
        if let Some(bias) = &mut scales.bias {
            let shift = shift.get(channel).copied().unwrap_or(0.0) / source.factor;
            bias[column] = (bias[column] - shift) / scale[channel];
        }
        if let Some(correction) = &mut scales.correction {
            correction[column] /= scale[channel];
        }
        if scale[channel] != 1.0 {
            let n = scales.b.len();
            let columns = scales.columns.get_or_insert_with(|| vec![1.0; n]);
            columns[column] /= scale[channel];
            let other = scales.b[column].get() / scale[channel];
            scales.b[column] = Scale::new(other.max(f32::MIN_POSITIVE))?;
        }
    }
    Ok(())
}

fn fold_scores(problem: &mut Problem, fold: &Fold) {
    for a in &mut problem.a {
        for (mut column, &scale) in a.columns_mut().into_iter().zip(&fold.scale) {
            column *= scale;
        }
    }
    for b in problem.b.matrices_mut() {
        for (channel, mut row) in b.rows_mut().into_iter().enumerate() {
            row.mapv_inplace(|x| (x - fold.shift[channel]) / fold.scale[channel]);
        }
    }
}

fn fold_values(problem: &mut Problem, fold: &Fold) {
    for b in problem.b.matrices_mut() {
        for (channel, mut column) in b.columns_mut().into_iter().enumerate() {
            column.mapv_inplace(|x| (x - fold.shift[channel]) / fold.scale[channel]);
        }
    }
    for curvature in &mut problem.curvature {
        for (mut column, scale) in curvature.columns_mut().into_iter().zip(&fold.scale) {
            column *= scale * scale;
        }
    }
}

/// The loss of one round of the search.
fn loss(problem: Problem, settings: &Settings) -> Result<f64> {
    Search::Pruned.run(problem, &Settings { rounds: 1, ..*settings }).map(|solution| solution.loss)
}

/// The weighted squared error of the products if they are quantized with one scale for all heads, as the projection behind
/// attention takes them.
fn behind(parts: &[Problem], products: &[Vec<Array2<f32>>], fold: &Fold, bits: Bits) -> f64 {
    // Each product in its new range, and the weight of its squared error there.
    let mut values: Vec<(f32, f32)> = Vec::new();
    let mut first = 0;
    for (part, products) in parts.iter().zip(products) {
        for (image, product) in products.iter().enumerate() {
            let curvature = part.curvature.get(image);
            for ((row, channel), &x) in product.indexed_iter() {
                let (shift, scale) = (fold.shift[first + channel], fold.scale[first + channel]);
                let weight = curvature.map_or(1.0, |curvature| curvature[[row, channel]]);
                values.push(((x - shift) / scale, weight * scale * scale));
            }
        }
        first += products[0].ncols();
    }
    let largest = values.iter().fold(0f32, |largest, (x, _)| largest.max(x.abs()));
    let error = |percent: usize| {
        let scale = Scale::new(largest * percent as f32 / 100.0 / bits.half() as f32);
        let Ok(scale) = scale else { return 0.0 };
        let quantizer = Quantizer::Uniform { scale, bits };
        let of_value = |&(x, weight): &(f32, f32)| {
            let error = quantizer.fake_quant(x) - x;
            f64::from(weight * error * error)
        };
        values.iter().map(of_value).sum()
    };
    let errors: Vec<f64> = PERCENTS.step_by(4).collect::<Vec<_>>().into_par_iter().map(error).collect();
    errors.into_iter().fold(f64::INFINITY, f64::min)
}

/// An estimate of the error that the rounding of the weight behind attention makes. What the loss thinks of its outputs is
/// not known here: all are taken to matter alike, as much as explains the curvature of the products.
fn weighed(
    parts: &[Problem],
    products: &[Vec<Array2<f32>>],
    fold: &Fold,
    weight: &Array2<f32>,
    link: &ValuesLink,
    (bits, in_turn): (Bits, bool),
) -> f64 {
    let channels = link.rows.ncols();
    let gains: Vec<f64> =
        weight.rows().into_iter().map(|row| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum()).collect();
    let mut largest = vec![0f32; weight.ncols()];
    for (channel, &row) in link.rows.iter().enumerate() {
        let scaled = weight.row(row).mapv(|w| (w * fold.scale[channel]).abs());
        largest.iter_mut().zip(&scaled).for_each(|(largest, w)| *largest = largest.max(*w));
    }
    // A uniform error in steps of Δ has the square Δ²/12.
    let step = |largest: &f32| f64::from(*largest) / f64::from(bits.half());
    let share = if in_turn { IN_TURN } else { 1.0 };
    let rounding: f64 = largest.iter().map(|largest| share * step(largest).powi(2) / 12.0).sum();
    let mut sum = 0.0;
    for (head, (part, products)) in parts.iter().zip(products).enumerate() {
        for (image, product) in products.iter().enumerate() {
            for ((at, channel), &x) in product.indexed_iter() {
                let gain = gains[link.rows[[head, channel]]];
                let curvature = part.curvature.get(image).map_or(1.0, |curvature| curvature[[at, channel]]);
                let at_outputs = if gain > 0.0 { f64::from(curvature) / gain } else { 0.0 };
                let x = (x - fold.shift[head * channels + channel]) / fold.scale[head * channels + channel];
                sum += at_outputs * f64::from(x * x) * rounding;
            }
        }
    }
    sum
}

/// Every [`STRIDE`]-th image of a problem of two activations.
fn some_images(problem: &Problem) -> Problem {
    let some = |all: &[Matrix]| all.iter().step_by(STRIDE).cloned().collect::<Vec<_>>();
    Problem {
        a: some(&problem.a),
        a_kind: problem.a_kind,
        b: Rhs::Activation(some(problem.b.matrices())),
        groups: problem.groups.clone(),
        curvature: some(&problem.curvature),
        units: vec![],
    }
}

fn products(problem: &Problem) -> Vec<Array2<f32>> {
    problem.a.iter().zip(problem.b.matrices()).map(|(a, b)| matmul::product(a, b)).collect()
}

/// The range of each channel, which is an index of `axis`.
fn along(matrices: &[Matrix], axis: Axis, can_shift: bool, bits: Bits) -> Vec<Span> {
    let of_channel = |channel: usize| {
        let values: Vec<f32> =
            matrices.iter().flat_map(|matrix| matrix.index_axis(axis, channel).to_vec()).collect();
        Span::of(&values, &vec![1.0; values.len()], can_shift, bits)
    };
    (0..matrices[0].len_of(axis)).into_par_iter().map(of_channel).collect()
}
