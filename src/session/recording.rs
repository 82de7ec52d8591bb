//! The float model as a differentiable network: values and gradients by ONNX name.

use std::collections::HashMap;

use ndarray::{ArrayD, ArrayViewD};
use tract_onnx::tract_hir::internal::{IntoTensor, OutletId};

use super::import::{import, reader};
use crate::autodiff::{Network, Tape};
use crate::onnx::Model;
use crate::{Error, Result};

/// A model that records values and gradients.
pub struct Session {
    network: Network,
    outlets: HashMap<String, OutletId>,
    output: OutletId,
}

/// One forward pass.
pub struct Recorded<'s> {
    session: &'s Session,
    tape: Tape<'s>,
}

impl Session {
    /// Imports `model` for inputs of `shape` (`[N, C, H, W]`); `output` and `taps` are names of its values.
    pub fn new(model: &Model, shape: [usize; 4], output: &str, taps: &[&str]) -> Result<Self> {
        let names: Vec<String> =
            std::iter::once(output).chain(taps.iter().copied()).map(String::from).collect();
        let typed = import(&reader(), model, shape, &names)?;
        let outlets = names.into_iter().zip(typed.outputs.iter().copied()).collect();
        let output = typed.outputs[0];
        Ok(Self { network: Network::new(typed)?, outlets, output })
    }

    /// Runs the model on one batch, keeping its output and the taps `wanted`.
    pub fn forward(&self, input: ArrayD<f32>, wanted: &[&str]) -> Result<Recorded<'_>> {
        let mut outlets: Vec<OutletId> =
            wanted.iter().map(|name| self.outlet(name)).collect::<Result<_>>()?;
        outlets.push(self.output);
        Ok(Recorded { session: self, tape: self.network.forward(input.into_tensor(), &outlets)? })
    }

    fn outlet(&self, name: &str) -> Result<OutletId> {
        self.outlets
            .get(name)
            .copied()
            .ok_or_else(|| Error::model(format!("value `{name}`"), "is not tapped"))
    }
}

impl Recorded<'_> {
    /// The shape of any tap.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(self.tape.shape(self.session.outlet(name)?))
    }

    /// The value of a wanted tap, in the shape that the model computes.
    pub fn value(&self, name: &str) -> Result<ArrayViewD<'_, f32>> {
        self.tape.value(self.session.outlet(name)?)
    }

    /// The model's output.
    pub fn output(&self) -> Result<ArrayViewD<'_, f32>> {
        self.tape.value(self.session.output)
    }

    /// What the values that it keeps take, in bytes.
    pub fn bytes(&self) -> usize {
        self.tape.bytes()
    }

    /// For every seed, `∂⟨seed, output⟩/∂value` of each named tap: `found(index of the name, by seed)` is called when
    /// they are known. Uses the values up.
    pub fn gradients(
        self,
        seeds: Vec<ArrayD<f32>>,
        names: &[&str],
        found: impl FnMut(usize, &[ArrayD<f32>]) -> Result<()>,
    ) -> Result<()> {
        let outlets: Vec<OutletId> = names.iter().map(|n| self.session.outlet(n)).collect::<Result<_>>()?;
        self.tape.backward(self.session.output, seeds, &outlets, found)
    }
}
