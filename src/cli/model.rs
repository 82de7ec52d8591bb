//! How the commands read a model.

use std::path::Path;

use bytesize::ByteSize;
use onnx_ptq4vit::Result;
use onnx_ptq4vit::data::named_arrays;
use onnx_ptq4vit::onnx::Limits;
use onnx_ptq4vit::prepare::{InputValue, Prepared, Task};
use onnx_ptq4vit::progress::Progress;

use super::values::NamedInput;

/// How a model file is read.
#[derive(Clone, clap::Args)]
pub(super) struct ModelArgs {
    /// The largest tensor that a node of the model may make: a file is not trusted to take all memory
    #[arg(long, value_name = "SIZE", default_value = "1GiB", hide_short_help = true)]
    max_tensor: ByteSize,
    /// What the model is for: classify, multilabel, regress, embed, dense or detect
    ///
    /// Without it, the outputs tell.
    #[arg(long, value_name = "TASK", hide_short_help = true)]
    task: Option<Task>,
}

/// The inputs beside the images.
#[derive(Clone, clap::Args)]
pub(super) struct InputArgs {
    /// The value of an input beside the images, in every run: a number, true, false, or a .npy file; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", hide_short_help = true)]
    inputs: Vec<NamedInput>,
}

impl ModelArgs {
    /// The model at `path`, as every command works on it.
    pub(super) fn read(&self, path: &Path) -> Result<Prepared> {
        let tensor_bytes = usize::try_from(self.max_tensor.0).unwrap_or(usize::MAX);
        let model = Prepared::open_within(path, Limits { tensor_bytes })?;
        Ok(match self.task {
            Some(task) => model.with_task(task),
            None => model,
        })
    }
}

impl InputArgs {
    /// `model` with the given values of its inputs beside the images, and those that the file `data` has for them.
    pub(super) fn give(&self, model: Prepared, data: &Path) -> Result<Prepared> {
        give(model, &self.inputs, data)
    }
}

/// As [`InputArgs::give`].
pub(super) fn give(mut model: Prepared, inputs: &[NamedInput], data: &Path) -> Result<Prepared> {
    let names: Vec<String> = model.extra_inputs().iter().map(|extra| extra.name().to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if !names.is_empty() {
        for (name, array) in named_arrays(data, &names)? {
            model = model.with_input(&name, InputValue::Rows(array))?;
        }
    }
    for input in inputs {
        model = model.with_input(&input.name, input.read()?)?;
    }
    Ok(model)
}

/// Says what the inputs beside the images are taken to be, and what the model is for.
pub(super) fn say(model: &Prepared, progress: &dyn Progress) -> Result<()> {
    for extra in model.extra_inputs() {
        let name = extra.name();
        match extra.default_value() {
            _ if !extra.is_used() => progress.note(&format!("input `{name}` is not used by the model")),
            Some(value) => progress.note(&format!(
                "warning: input `{name}` is taken to be {value}; --input {name}=VALUE gives it another value"
            )),
            None => {}
        }
    }
    progress.note(&format!("task: {}", model.outputs()?));
    Ok(())
}
