//! What runs the models of a command.

use std::path::PathBuf;

use clap::ValueEnum;
use onnx_ptq4vit::engine::Engine;
use onnx_ptq4vit::integer::Runner;
use onnx_ptq4vit::onnxruntime::{Library, OnnxRuntime};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::{Error, Result};

/// What runs the models of a command.
#[derive(Clone, clap::Args)]
pub(super) struct EngineArgs {
    /// What runs the models: builtin or onnxruntime
    #[arg(
        id = "engine",
        long,
        value_name = "ENGINE",
        default_value = "builtin",
        hide_possible_values = true
    )]
    pub(super) name: EngineName,
    /// The library of ONNX Runtime, such as libonnxruntime.so
    ///
    /// Without it, the variable `ORT_DYLIB_PATH` names it; else it is the one of the Python package onnxruntime in the active
    /// virtual environment, or the one that the system finds.
    #[arg(long, value_name = "PATH", hide_short_help = true)]
    onnxruntime_library: Option<PathBuf>,
}

/// An engine by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineName {
    /// This program: integer arithmetic for a quantized model, tract for a float model
    Builtin,
    /// Stock ONNX Runtime, which must be installed
    Onnxruntime,
}

impl EngineArgs {
    /// An error if ONNX Runtime is asked for and is not there, or cannot give the `sites` that are asked for.
    pub(super) fn ensure_ready(&self, sites: bool) -> Result<()> {
        if self.name == EngineName::Builtin {
            return Ok(());
        }
        if sites {
            let why = "--sites needs --engine builtin: ONNX Runtime gives the outputs of a model, and no value inside it";
            return Err(Error::usage(why));
        }
        self.library().map(drop)
    }

    /// ONNX Runtime.
    pub(super) fn library(&self) -> Result<Library> {
        Library::load(self.onnxruntime_library.as_deref())
    }

    /// What runs `model` on images of `[C, H, W]`.
    pub(super) fn engine(&self, model: &Prepared, image: [usize; 3]) -> Result<Box<dyn Engine>> {
        match self.name {
            EngineName::Builtin => builtin(model, image),
            EngineName::Onnxruntime => Ok(Box::new(OnnxRuntime::new(&self.library()?, model, image)?)),
        }
    }
}

/// What of this program runs `model` on images of `[C, H, W]`: integers for a quantized one, tract for a float one.
pub(super) fn builtin(model: &Prepared, image: [usize; 3]) -> Result<Box<dyn Engine>> {
    Ok(if model.is_quantized() {
        Box::new(Runner::with_image(model, image)?)
    } else {
        Box::new(model.float_engine(image)?)
    })
}
