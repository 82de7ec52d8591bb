//! Where the elements of a value lie in the one that it is a rearrangement of.

use tract_core::internal::*;
use tract_core::ops::array::Slice;
use tract_core::ops::change_axes::AxisOp;

use super::dims;
use crate::pattern::{constant, op, var};

/// Element `i` of a value is element `offset + i·strides` of `source`, times `factor`.
pub(super) struct View {
    pub(super) source: OutletId,
    pub(super) offset: usize,
    pub(super) shape: TVec<usize>,
    pub(super) strides: TVec<usize>,
    pub(super) factor: Option<f32>,
}

impl View {
    /// The view of `outlet` on what it is made from, as far back as it goes.
    pub(super) fn new(model: &TypedModel, outlet: OutletId) -> Option<Self> {
        Self::through(model, outlet).or_else(|| Some(Self::whole(outlet, dims(model, outlet)?)))
    }

    fn whole(source: OutletId, shape: TVec<usize>) -> Self {
        let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        Self { source, offset: 0, shape, strides, factor: None }
    }

    /// The view through the node that makes `outlet`, if it only rearranges.
    fn through(model: &TypedModel, outlet: OutletId) -> Option<Self> {
        let node = model.node(outlet.node);
        if let Some(scaled) = op("Mul", [var("x"), constant("factor")]).matches(model, outlet) {
            let [factor] = *scaled.floats("factor") else { return None };
            let view = Self::new(model, *scaled.value("x"))?;
            let same = view.shape == dims(model, outlet)?;
            return (same && view.factor.is_none()).then_some(Self { factor: Some(factor), ..view });
        }
        if let Some(slice) = node.op_as::<Slice>() {
            let mut view = Self::new(model, node.inputs[0])?;
            let (start, end) = (slice.start.to_usize().ok()?, slice.end.to_usize().ok()?);
            view.offset += start * view.strides[slice.axis];
            view.shape[slice.axis] = end - start;
            return Some(view);
        }
        let moves = node.op_as::<AxisOp>()?;
        Self::new(model, node.inputs[0])?.rearranged(moves)
    }

    fn rearranged(mut self, op: &AxisOp) -> Option<Self> {
        match op {
            AxisOp::Add(axis) => {
                self.shape.insert(*axis, 1);
                self.strides.insert(*axis, 0);
            }
            AxisOp::Rm(axis) => {
                self.shape.remove(*axis);
                self.strides.remove(*axis);
            }
            AxisOp::Move(from, to) => {
                let (dim, stride) = (self.shape.remove(*from), self.strides.remove(*from));
                self.shape.insert(*to, dim);
                self.strides.insert(*to, stride);
            }
            AxisOp::Reshape(at, from, to) => {
                let stride = self.stride_of_merged(*at..at + from.len())?;
                let to: TVec<usize> = to.iter().map(|dim| dim.to_usize().ok()).collect::<Option<_>>()?;
                let strides: TVec<usize> =
                    (0..to.len()).map(|i| stride * to[i + 1..].iter().product::<usize>()).collect();
                for _ in 0..from.len() {
                    self.shape.remove(*at);
                    self.strides.remove(*at);
                }
                for (i, (dim, stride)) in to.into_iter().zip(strides).enumerate() {
                    self.shape.insert(at + i, dim);
                    self.strides.insert(at + i, stride);
                }
            }
        }
        Some(self)
    }

    /// The distance of elements when `axes` are taken for one, if they can be.
    fn stride_of_merged(&self, axes: std::ops::Range<usize>) -> Option<usize> {
        let axes: Vec<usize> = axes.filter(|&axis| self.shape[axis] != 1).collect();
        let merges = |pair: &[usize]| self.strides[pair[0]] == self.shape[pair[1]] * self.strides[pair[1]];
        axes.windows(2).all(merges).then(|| axes.last().map_or(1, |&axis| self.strides[axis]))
    }
}
