//! The loss of one pair of quantizers, on integer codes.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::super::metric::Row;
use super::rows::{Rows, Stretch};
use super::{Problem, Rhs, Settings, candidates};
use crate::Result;
use crate::kernel::{self, Kernel, PackedB};
use crate::quant::{Codes, Quantizer, Scale, uniform_codes};

/// Groups narrower than this are packed and dropped together: the width of a kernel's panel.
const UNIT: usize = 16;

/// A problem with its float outputs, ready to be evaluated.
pub(super) struct Evaluator<'s> {
    settings: &'s Settings,
    rhs: Rhs,
    /// The rows, the heaviest first.
    stretches: Vec<Stretch>,
    /// The columns of each group.
    groups: Vec<Range<usize>>,
    /// Groups that are packed together.
    units: Vec<Range<usize>>,
    kernel: &'static dyn Kernel,
}

/// The quantized `B`.
pub(super) struct PackedRhs {
    scales: Vec<Scale>,
    /// `[operand][unit]`, packed when it is first needed: a candidate that is dropped early needs little.
    packed: Vec<Vec<OnceLock<PackedB>>>,
}

impl<'s> Evaluator<'s> {
    /// Computes the float products, and sorts the rows by their loss at the candidates where a search starts.
    pub(super) fn new(mut problem: Problem, settings: &'s Settings) -> Result<Self> {
        let lhs_candidates = candidates::lhs(&problem, settings)?;
        let scales = candidates::initial_rhs(&problem, settings)?;
        let rows = Rows::new(&mut problem);
        let (rhs, groups) = (problem.b, problem.groups);
        let units = units(&groups);
        let columns = units.iter().map(|unit| columns(&groups, unit)).collect::<Vec<_>>();
        let mut this = Self { settings, rhs, stretches: Vec::new(), groups, units, kernel: kernel::best() };
        let (a, b) =
            (lhs_candidates[candidates::near_maximum(lhs_candidates.len())], this.quantize_rhs(&scales));
        let mass = |pick| this.mass(&rows.stretch(pick, &columns), a, &b);
        let mass: Vec<f64> = rows.natural().par_iter().flat_map_iter(mass).collect();
        this.stretches = rows.heaviest_first(&mass, &columns);
        Ok(this)
    }

    /// How many stretches of rows there are.
    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    /// How many units there are.
    pub(super) fn units(&self) -> usize {
        self.units.len()
    }

    /// The groups of a unit.
    pub(super) fn groups_of(&self, unit: usize) -> Range<usize> {
        self.units[unit].clone()
    }

    /// `B` quantized with the scale of each group.
    pub(super) fn quantize_rhs(&self, scales: &[Scale]) -> PackedRhs {
        let units = || self.units.iter().map(|_| OnceLock::new()).collect();
        PackedRhs { scales: scales.to_vec(), packed: self.rhs.matrices().iter().map(|_| units()).collect() }
    }

    fn pack(&self, operand: usize, unit: usize, scales: &[Scale]) -> PackedB {
        let b = &self.rhs.matrices()[operand];
        let b_values = b.as_slice().expect("problems hold standard layout");
        let groups = self.units[unit].clone();
        let columns = columns(&self.groups, &groups);
        PackedB::pack_rows(b.nrows(), columns.len(), |row, codes| {
            let row = &b_values[row * b.ncols()..][..b.ncols()];
            for (group, &scale) in self.groups[groups.clone()].iter().zip(&scales[groups.clone()]) {
                let to = group.start - columns.start..group.end - columns.start;
                uniform_codes(&row[group.clone()], scale, self.settings.b_bits, &mut codes[to]);
            }
        })
    }

    /// The codes of `A` in every stretch.
    pub(super) fn quantize_lhs(&self, quantizer: Quantizer) -> Vec<Codes> {
        self.stretches.par_iter().map(|stretch| self.codes_of(stretch, quantizer)).collect()
    }

    /// The codes of `A` in one stretch.
    pub(super) fn codes(&self, stretch: usize, quantizer: Quantizer) -> Codes {
        self.codes_of(&self.stretches[stretch], quantizer)
    }

    /// Fused only where the product then fits i32.
    fn codes_of(&self, stretch: &Stretch, quantizer: Quantizer) -> Codes {
        // A column of B sums at most K·2^(k−1) in magnitude.
        let column = (stretch.a.len() / stretch.len) as i64 * i64::from(self.settings.b_bits.half());
        let max_abs_code = (i64::from(i32::MAX) / column.max(1)).min(i16::MAX.into()) as i32;
        quantizer.codes(&stretch.a, max_abs_code)
    }

    /// The loss of one stretch in all columns.
    pub(super) fn loss(&self, stretch: usize, a: Quantizer, codes: &Codes, b: &PackedRhs) -> f64 {
        let loss = |unit| self.unit_losses(&self.stretches[stretch], a, codes, b, unit).iter().sum::<f64>();
        (0..self.units.len()).map(loss).sum()
    }

    /// Adds the losses of one stretch, by group of a unit.
    pub(super) fn add_unit_losses(
        &self,
        stretch: usize,
        a: Quantizer,
        codes: &Codes,
        b: &PackedRhs,
        unit: usize,
        sums: &mut [f64],
    ) {
        let losses = self.unit_losses(&self.stretches[stretch], a, codes, b, unit);
        for row in losses.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, loss)| *sum += loss);
        }
    }

    /// The loss of every row of a stretch.
    fn mass(&self, stretch: &Stretch, a: Quantizer, b: &PackedRhs) -> Vec<f64> {
        let codes = self.codes_of(stretch, a);
        let mut mass = vec![0f64; stretch.len];
        for (unit, groups) in self.units.iter().enumerate() {
            let losses = self.unit_losses(stretch, a, &codes, b, unit);
            let rows = losses.chunks_exact(groups.len());
            mass.iter_mut().zip(rows).for_each(|(mass, row)| *mass += row.iter().sum::<f64>());
        }
        mass
    }

    /// The losses `[rows, groups of the unit]` of one stretch.
    fn unit_losses(
        &self,
        stretch: &Stretch,
        a: Quantizer,
        codes: &Codes,
        b: &PackedRhs,
        unit: usize,
    ) -> Vec<f64> {
        let target = &stretch.targets[unit];
        let packed = &b.packed[stretch.operand][unit];
        let packed = packed.get_or_init(|| self.pack(stretch.operand, unit, &b.scales));
        let groups = &self.groups[self.units[unit].clone()];
        let scales: Vec<f32> =
            b.scales[self.units[unit].clone()].iter().map(|s| a.scale() * s.get()).collect();
        match (codes, &scales[..]) {
            (Codes::Fused(codes), &[scale]) if !self.settings.metric.is_rowwise() => {
                let mut sums = vec![0f32; stretch.len];
                self.kernel.errors(codes, packed, scale, target, &mut sums);
                sums.into_iter().map(f64::from).collect()
            }
            _ => {
                let mut losses = Vec::with_capacity(stretch.len * groups.len());
                for (i, acc) in self.product(codes, stretch.len, packed).chunks_exact(packed.n()).enumerate()
                {
                    let (reference, curvature) = &target.row(i);
                    let row = Row { acc, reference, curvature };
                    losses.extend(groups.iter().zip(&scales).map(|(columns, &scale)| {
                        let columns = columns.start - groups[0].start..columns.end - groups[0].start;
                        self.settings.metric.loss(&row, columns, scale)
                    }));
                }
                losses
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
