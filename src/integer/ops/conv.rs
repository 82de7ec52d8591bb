//! A convolution of `x[N, C, H, W]`: its windows as rows of codes, times the weight of their group.

use rayon::prelude::*;
use tract_core::internal::*;

use super::lhs::fits_codes;
use super::product::{NO_VALUES, by_panel, multiply_codes, rows_of_task};
use crate::integer::site::Weight;
use crate::kernel::{PANEL, PackedB, Scaling};
use crate::quant::Quantizer;
use crate::windows::Windows;
use crate::{Error, Result};

pub(super) struct Conv {
    a: Quantizer,
    windows: Windows,
    /// C.
    channels: usize,
    groups: Vec<Group>,
    /// The codes of the result, if it is rounded to them.
    output: Option<Quantizer>,
}

/// The output channels that see the same input channels.
struct Group {
    /// `[kh·kw·C/groups, M/groups]`.
    b: PackedB,
    /// `Δ_A · Δ_W` by panel.
    scales: Vec<[f32; PANEL]>,
    bias: Option<Vec<[f32; PANEL]>>,
}

/// The result of some windows in one group, `[M/groups, windows]`.
struct Part {
    group: usize,
    first: usize,
    values: Vec<f32>,
}

impl Conv {
    /// An error if a sum might not fit 32 bits, or if the weight does not belong to these windows.
    pub(super) fn new(
        name: &str,
        a: Quantizer,
        weight: &Weight,
        windows: Windows,
        bias: Option<&[f32]>,
        output: Option<Quantizer>,
    ) -> Result<Self> {
        let taps = windows.depth(windows.groups());
        let of_group = weight.k / taps;
        let n = weight.n / windows.groups();
        let group = |group: usize| {
            let columns = group * n..(group + 1) * n;
            // The channels of a pixel lie together.
            let b = PackedB::pack_rows(weight.k, n, |row, codes| {
                let (tap, channel) = (row / of_group, row % of_group);
                weight.copy_row(channel * taps + tap, columns.clone(), codes);
            });
            if !fits_codes(a, &b) {
                let why = format!("sums over {} codes overflow", weight.k);
                return Err(Error::unsupported(format!("site `{name}`"), why));
            }
            let scales: Vec<f32> = columns.clone().map(|column| a.scale() * weight.scale(column)).collect();
            let bias = bias.map(|bias| by_panel(&bias[columns]));
            Ok(Group { b, scales: by_panel(&scales), bias })
        };
        let groups = (0..windows.groups()).map(group).collect::<Result<_>>()?;
        Ok(Self { a, windows, channels: of_group * windows.groups(), groups, output })
    }

    pub(super) fn output_shape(&self, x: &[TDim]) -> TractResult<TVec<TDim>> {
        let [n, c, h, w] = x else { bail!("a Conv of {x:?}") };
        ensure!(*c == self.channels.to_dim(), "a Conv of {c} channels");
        let [h, w] = self.counts([h.to_usize()?, w.to_usize()?])?;
        Ok(tvec!(n.clone(), self.outputs().to_dim(), h.to_dim(), w.to_dim()))
    }

    pub(super) fn eval(&self, x: &Tensor) -> TractResult<Tensor> {
        let &[n, c, h, w] = x.shape() else { bail!("a Conv of {:?}", x.shape()) };
        ensure!(c == self.channels, "a Conv of {c} channels");
        let counts = self.counts([h, w])?;
        let mut out = vec![0f32; n * self.outputs() * counts[0] * counts[1]];
        let plain = x.try_as_plain_ram()?;
        if !out.is_empty() {
            let images = plain.as_slice::<f32>()?.chunks_exact(c * h * w);
            let results = out.chunks_exact_mut(self.outputs() * counts[0] * counts[1]);
            images.zip(results).for_each(|(x, out)| self.image(x, [h, w], counts, out));
        }
        let shape = [n, self.outputs(), counts[0], counts[1]];
        Ok(tract_ndarray::Array4::from_shape_vec(shape, out)?.into_tensor())
    }

    fn outputs(&self) -> usize {
        self.groups.iter().map(|group| group.b.n()).sum()
    }

    fn counts(&self, size: [usize; 2]) -> TractResult<[usize; 2]> {
        self.windows.counts(size).with_context(|| format!("the windows of a Conv are larger than {size:?}"))
    }

    /// The result `[M, h, w]` of one image `[C, H, W]`.
    fn image(&self, x: &[f32], size: [usize; 2], counts: [usize; 2], out: &mut [f32]) {
        let codes = self.codes(x, size[0] * size[1]);
        let positions = counts[0] * counts[1];
        let rows = rows_of_task(positions);
        let tasks: Vec<(usize, usize)> = (0..self.groups.len())
            .flat_map(|group| (0..positions).step_by(rows).map(move |first| (group, first)))
            .collect();
        let of_group = codes.len() / self.groups.len();
        let part = |&(group, first): &(usize, usize)| {
            let codes = &codes[group * of_group..][..of_group];
            let rows = rows.min(positions - first);
            let values = self.groups[group].product(self, codes, size, counts[1], first..first + rows);
            Part { group, first, values }
        };
        let parts: Vec<Part> = tasks.par_iter().map(part).collect();
        for Part { group, first, values } in parts {
            let columns = self.groups[group].b.n();
            let out = &mut out[group * columns * positions..][..columns * positions];
            let rows = values.len() / columns;
            for (out, values) in out.chunks_exact_mut(positions).zip(values.chunks_exact(rows)) {
                out[first..][..rows].copy_from_slice(values);
            }
        }
    }

    /// The codes of an image `[C, pixels]`, as `[groups, pixels, C/groups]`.
    fn codes(&self, x: &[f32], pixels: usize) -> Vec<i16> {
        let channels = self.channels / self.groups.len();
        let mut codes = vec![0i16; x.len()];
        let groups = codes.par_chunks_exact_mut(channels * pixels).zip(x.par_chunks_exact(channels * pixels));
        groups.for_each(|(codes, x)| {
            let mut plane = vec![0i16; pixels];
            for (channel, x) in x.chunks_exact(pixels).enumerate() {
                self.a.uniform_codes(x, &mut plane);
                codes[channel..].iter_mut().step_by(channels).zip(&plane).for_each(|(to, from)| *to = *from);
            }
        });
        codes
    }
}

impl Group {
    /// The result `[M/groups, windows]` of the windows `positions`, of which `columns` are in a line; `codes` are
    /// `[pixels, C/groups]`.
    fn product(
        &self,
        conv: &Conv,
        codes: &[i16],
        size: [usize; 2],
        columns: usize,
        positions: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let (k, n, rows) = (self.b.k(), self.b.n(), positions.len());
        let channels = codes.len() / (size[0] * size[1]);
        let mut gathered = Vec::new();
        let rows_of_codes = if conv.windows.are_pixels() {
            &codes[positions.start * channels..positions.end * channels]
        } else {
            gathered.resize(rows * k, 0);
            for (row, position) in gathered.chunks_exact_mut(k).zip(positions) {
                let position = [position / columns, position % columns];
                conv.windows.runs(size, position, |target, source, len| {
                    row[target * channels..][..len * channels]
                        .copy_from_slice(&codes[source * channels..][..len * channels]);
                });
            }
            &gathered[..]
        };
        let mut out = vec![0f32; n * rows];
        let mut rounded = Vec::new();
        let scaling = |panel: usize| Scaling {
            scales: &self.scales[panel],
            bias: self.bias.as_ref().map(|bias| &bias[panel]),
        };
        let mut values = NO_VALUES;
        multiply_codes(rows_of_codes, &self.b, scaling, |block| {
            let values = block.values(&mut values);
            if let Some(output) = conv.output {
                round(output, values.as_flattened_mut(), &mut rounded);
            }
            let columns = self.b.columns(block.panel);
            let out = out[columns.start * rows..columns.end * rows].chunks_exact_mut(rows);
            for (i, out) in out.enumerate() {
                let out = &mut out[block.rows.clone()];
                out.iter_mut().zip(values.iter()).for_each(|(out, values)| *out = values[i]);
            }
        });
        out
    }
}

/// Rounds `values` to the codes of `quantizer`.
fn round(quantizer: Quantizer, values: &mut [f32], codes: &mut Vec<i16>) {
    codes.resize(values.len(), 0);
    quantizer.uniform_codes(values, codes);
    let scale = quantizer.scale();
    values.iter_mut().zip(codes.iter()).for_each(|(value, &code)| *value = f32::from(code) * scale);
}
