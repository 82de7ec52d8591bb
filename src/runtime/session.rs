//! The float model as a differentiable network: values and gradients by ONNX name.

use std::collections::HashMap;

use ndarray::{ArrayD, ArrayViewD};
use tract_onnx::tract_hir::internal::{IntoTensor, OutletId};

use super::autodiff::{Network, Tape};
use super::tapped;
use crate::onnx::Model;
use crate::{Error, Result};

/// A model that records values and gradients.
pub struct Session {
    network: Network,
    outlets: HashMap<String, OutletId>,
    outputs: Vec<OutletId>,
}

/// One forward pass.
pub struct Recorded<'s> {
    session: &'s Session,
    tape: Tape<'s>,
}

impl Session {
    /// Imports `model` for inputs of `shape` (`[N, C, H, W]`); `outputs` and `taps` are names of its values.
    pub fn new(model: &Model, shape: [usize; 4], outputs: &[String], taps: &[&str]) -> Result<Self> {
        let taps = taps.iter().map(|tap| (*tap).to_string());
        let names: Vec<String> = outputs.iter().cloned().chain(taps).collect();
        let typed = tapped(model, shape, &names)?;
        let count = outputs.len();
        let outputs = typed.outputs[..count].to_vec();
        let outlets = names.into_iter().zip(typed.outputs.iter().copied()).collect();
        Ok(Self { network: Network::new(typed, model.limits.tensor_bytes)?, outlets, outputs })
    }

    /// Ends every gradient before an operator that has no rule, on its way from the outputs to the values `wanted`, and
    /// counts what enters such an operator among the [outputs](Recorded::outputs), behind those of the model. Gives the
    /// names and operators of these nodes.
    pub fn end_at_missing_rules(&mut self, wanted: &[&str]) -> Result<Vec<(String, String)>> {
        let wanted: Vec<OutletId> = wanted.iter().map(|name| self.outlet(name)).collect::<Result<_>>()?;
        let (nodes, ends) = self.network.end_at_missing_rules(&self.outputs, &wanted);
        self.outputs.extend(ends);
        Ok(nodes)
    }

    /// Runs the model on one batch, keeping its outputs and the taps `wanted`.
    pub fn forward(&self, input: ArrayD<f32>, wanted: &[&str]) -> Result<Recorded<'_>> {
        let mut outlets: Vec<OutletId> =
            wanted.iter().map(|name| self.outlet(name)).collect::<Result<_>>()?;
        outlets.extend(&self.outputs);
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

    /// The model's outputs, and where gradients [end](Session::end_at_missing_rules).
    pub fn outputs(&self) -> Result<Vec<ArrayViewD<'_, f32>>> {
        self.session.outputs.iter().map(|&output| self.tape.value(output)).collect()
    }

    /// What the values that it keeps take, in bytes.
    pub fn bytes(&self) -> usize {
        self.tape.bytes()
    }

    /// With S seeds for every output, `[S, its shape]`, `∂(Σ ⟨seed, output⟩)/∂value` of each named tap:
    /// `found(index of the name, [S, its shape])` is called when they are known. Uses the values up.
    pub fn gradients(
        self,
        seeds: Vec<ArrayD<f32>>,
        names: &[&str],
        found: impl FnMut(usize, &ArrayD<f32>) -> Result<()>,
    ) -> Result<()> {
        let outlets: Vec<OutletId> = names.iter().map(|n| self.session.outlet(n)).collect::<Result<_>>()?;
        let from = self.session.outputs.iter().copied().zip(seeds).collect();
        self.tape.backward(from, &outlets, found)
    }
}
