//! The loss of one pair of quantizers, on integer codes.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::super::metric::Row;
use super::rows::{Rows, Stretch};
use super::{Problem, Right, Settings, candidates};
use crate::Result;
use crate::kernel::{self, Kernel, PackedB};
use crate::quant::{Codes, Quantizer, Scale, uniform_codes};

/// Groups narrower than this are packed and dropped together: the width of a kernel's panel.
const UNIT: usize = 16;

/// A problem with its float outputs, ready to be evaluated.
pub(super) struct Evaluator<'s> {
    settings: &'s Settings,
    right: Right,
    /// The rows, the heaviest first.
    stretches: Vec<Stretch>,
    /// The columns of each group.
    groups: Vec<Range<usize>>,
    /// Groups that are packed together.
    units: Vec<Range<usize>>,
    kernel: &'static dyn Kernel,
}

/// The quantized `A`.
#[derive(Clone, Copy)]
pub(super) enum Left<'c> {
    /// Quantized stretch by stretch: a candidate that is dropped early needs few.
    Candidate(Quantizer),
    /// The codes of every stretch.
    Codes(Quantizer, &'c [Codes]),
}

/// The quantized `B`.
pub(super) struct PackedRight {
    scales: Vec<Scale>,
    /// By right operand, its units, packed when they are first needed: a candidate that is dropped early needs few.
    operands: Vec<OnceLock<Vec<PackedB>>>,
}

/// Whether the losses of all groups make one sum, or one each.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sums {
    Joint,
    ByGroup,
}

impl<'s> Evaluator<'s> {
    /// Computes the float products, and sorts the rows by their loss at the candidates where a search starts.
    pub(super) fn new(mut problem: Problem, settings: &'s Settings) -> Result<Self> {
        let lefts = candidates::left(&problem, settings)?;
        let scales = candidates::initial_right(&problem, settings)?;
        let rows = Rows::new(&mut problem);
        let (right, groups) = (problem.b, problem.groups);
        let units = units(&groups);
        let columns = units.iter().map(|unit| columns(&groups, unit)).collect::<Vec<_>>();
        let mut this =
            Self { settings, right, stretches: Vec::new(), groups, units, kernel: kernel::best() };
        let (a, b) = (lefts[candidates::near_maximum(lefts.len())], this.quantize_right(&scales));
        let mass = |pick| this.mass(&rows.stretch(pick, &columns), a, &b);
        let mass: Vec<f64> = rows.natural().par_iter().flat_map_iter(mass).collect();
        this.stretches = rows.heaviest_first(&mass, &columns);
        Ok(this)
    }

    /// How many stretches of rows there are.
    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    /// `B` quantized with the scale of each group.
    pub(super) fn quantize_right(&self, scales: &[Scale]) -> PackedRight {
        let operands = self.right.matrices().iter().map(|_| OnceLock::new()).collect();
        PackedRight { scales: scales.to_vec(), operands }
    }

    fn pack(&self, operand: usize, scales: &[Scale]) -> Vec<PackedB> {
        let b = &self.right.matrices()[operand];
        let b_values = b.as_slice().expect("problems hold standard layout");
        let pack_unit = |unit: &Range<usize>| {
            let columns = columns(&self.groups, unit);
            PackedB::pack_rows(b.nrows(), columns.len(), |row, codes| {
                let row = &b_values[row * b.ncols()..][..b.ncols()];
                for (columns_of_group, &scale) in self.groups[unit.clone()].iter().zip(&scales[unit.clone()]) {
                    let to = columns_of_group.start - columns.start..columns_of_group.end - columns.start;
                    let xs = &row[columns_of_group.clone()];
                    uniform_codes(xs, scale, self.settings.b_bits, &mut codes[to]);
                }
            })
        };
        self.units.iter().map(pack_unit).collect()
    }

    /// The codes of every stretch of `A`.
    pub(super) fn quantize_left(&self, quantizer: Quantizer) -> Vec<Codes> {
        self.stretches.par_iter().map(|stretch| self.codes(stretch, quantizer)).collect()
    }

    /// The codes of `A` in one stretch, fused only where the product then fits i32.
    fn codes(&self, stretch: &Stretch, quantizer: Quantizer) -> Codes {
        // A column of B sums at most K·2^(k−1) in magnitude.
        let column = (stretch.a.len() / stretch.len) as i64 * i64::from(self.settings.b_bits.half());
        quantizer.codes(&stretch.a, (i64::from(i32::MAX) / column.max(1)).min(i16::MAX.into()) as i32)
    }

    /// Adds the losses of some stretches to `sums`, row by row. Before each stretch a unit is dropped if all of its
    /// sums are `hopeless(group, sum)`, and its sums become infinite; false if no unit is left.
    pub(super) fn add_losses(
        &self,
        stretches: Range<usize>,
        a: Left,
        b: &PackedRight,
        kind: Sums,
        sums: &mut [f64],
        hopeless: impl Fn(usize, f64) -> bool,
    ) -> bool {
        let sum_of = |group: usize| if kind == Sums::Joint { 0 } else { group };
        let mut alive: Vec<usize> = (0..self.units.len()).collect();
        let mut losses = Vec::new();
        for i in stretches {
            alive.retain(|&unit| {
                let drop = self.units[unit].clone().all(|g| hopeless(sum_of(g), sums[sum_of(g)]));
                if drop {
                    self.units[unit].clone().for_each(|g| sums[sum_of(g)] = f64::INFINITY);
                }
                !drop
            });
            if alive.is_empty() {
                return false;
            }
            let stretch = &self.stretches[i];
            let (quantizer, codes) = match a {
                Left::Candidate(quantizer) => (quantizer, Cow::Owned(self.codes(stretch, quantizer))),
                Left::Codes(quantizer, codes) => (quantizer, Cow::Borrowed(&codes[i])),
            };
            for &unit in &alive {
                self.unit_losses(stretch, quantizer.unit(), &codes, b, unit, &mut losses);
                let groups = self.units[unit].clone();
                for row in losses.chunks_exact(groups.len()) {
                    groups.clone().zip(row).for_each(|(group, loss)| sums[sum_of(group)] += loss);
                }
            }
        }
        true
    }

    /// The loss of every row of a stretch.
    fn mass(&self, stretch: &Stretch, a: Quantizer, b: &PackedRight) -> Vec<f64> {
        let codes = self.codes(stretch, a);
        let mut mass = vec![0f64; stretch.len];
        let mut losses = Vec::new();
        for (unit, groups) in self.units.iter().enumerate() {
            self.unit_losses(stretch, a.unit(), &codes, b, unit, &mut losses);
            let rows = losses.chunks_exact(groups.len());
            mass.iter_mut().zip(rows).for_each(|(mass, row)| *mass += row.iter().sum::<f64>());
        }
        mass
    }

    /// The losses `[rows, groups of the unit]` of one stretch.
    fn unit_losses(
        &self,
        stretch: &Stretch,
        a_unit: f32,
        a: &Codes,
        b: &PackedRight,
        unit: usize,
        losses: &mut Vec<f64>,
    ) {
        let packed = b.operands[stretch.operand].get_or_init(|| self.pack(stretch.operand, &b.scales));
        let (packed, target) = (&packed[unit], &stretch.targets[unit]);
        let groups = &self.groups[self.units[unit].clone()];
        let scales: Vec<f32> =
            b.scales[self.units[unit].clone()].iter().map(|s| a_unit * s.get()).collect();
        losses.clear();
        match (a, &scales[..]) {
            (Codes::Fused(codes), &[scale]) if !self.settings.metric.is_rowwise() => {
                let mut sums = vec![0f32; stretch.len];
                self.kernel.errors(codes, packed, scale, target, &mut sums);
                losses.extend(sums.into_iter().map(f64::from));
            }
            _ => {
                let product = self.product(a, stretch.len, packed);
                for (i, acc) in product.chunks_exact(packed.n()).enumerate() {
                    let (reference, curvature) = &target.row(i);
                    let row = Row { acc, reference, curvature };
                    losses.extend(groups.iter().zip(&scales).map(|(columns, &scale)| {
                        let columns = columns.start - groups[0].start..columns.end - groups[0].start;
                        self.settings.metric.loss(&row, columns, scale)
                    }));
                }
            }
        }
    }

    /// `acc1 + 2^m·acc2` as f32.
    fn product(&self, a: &Codes, m: usize, b: &PackedB) -> Vec<f32> {
        let gemm = |codes: &[i16]| {
            let mut acc = vec![0i32; m * b.n()];
            self.kernel.gemm(codes, m, b, &mut acc);
            acc
        };
        match a {
            Codes::Fused(codes) => gemm(codes).into_iter().map(|acc| acc as f32).collect(),
            Codes::Split { fine, coarse, shift } => {
                let join = |(low, high)| (i64::from(low) + (i64::from(high) << shift)) as f32;
                gemm(fine).into_iter().zip(gemm(coarse)).map(join).collect()
            }
        }
    }
}

/// The columns of a unit.
fn columns(groups: &[Range<usize>], unit: &Range<usize>) -> Range<usize> {
    groups[unit.start].start..groups[unit.end - 1].end
}

/// Runs of groups: each wide one alone, narrow ones until they fill a panel.
fn units(groups: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut units: Vec<Range<usize>> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        match units.last_mut() {
            Some(unit) if group.end - groups[unit.start].start <= UNIT => unit.end = i + 1,
            _ => units.push(i..i + 1),
        }
    }
    units
}
