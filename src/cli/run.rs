//! `run`: a model on a few images.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use ndarray::{ArrayD, Axis, Slice};
use onnx_ptq4vit::Error;
use onnx_ptq4vit::check::{load_batch, top};
use onnx_ptq4vit::data::{Selection, write_npy};
use onnx_ptq4vit::files;
use onnx_ptq4vit::integer::{SiteInfo, SiteValues};
use onnx_ptq4vit::onnx::Graph;
use onnx_ptq4vit::report::{Align, table};
use onnx_ptq4vit::session::input_spec;
use serde::Serialize;

use super::engine::Engine;
use super::images::ImageArgs;
use super::model::{ModelArgs, is_quantized};
use super::output::{print, same_file};
use super::progress::Stderr;

/// Run a model, float or quantized
///
/// Prints the five most probable classes of every image. A quantized model runs in integer arithmetic.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The model
    model: PathBuf,
    /// An image, a folder of images, a CSV file with a `path` column, .npy or .npz
    #[arg(long, value_name = "PATH")]
    input: PathBuf,
    /// Write the model's output, as .npy
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write what every quantized site takes and gives to this folder, as .npy and .json
    #[arg(long, value_name = "DIR")]
    sites: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    reading: ModelArgs,
}

const EXAMPLES: &str = "\
Examples:
  onnx-ptq4vit run vit.int8.onnx --input cat.jpg
  onnx-ptq4vit run vit.int8.onnx --input x.npy -o y.npy";

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let progress = Stderr::new();
    if let Some(output) = &args.output {
        if same_file(output, &args.model) || same_file(output, &args.input) {
            return Err(Error::usage(format!("{}: would overwrite an input", output.display())).into());
        }
        files::ensure_writable(output)?;
    }
    let model = args.reading.read(&args.model)?.model;
    let graph = Graph::new(&model)?;
    let input = input_spec(&graph)?;
    if args.sites.is_some() && !is_quantized(&graph) {
        return Err(
            Error::usage(format!("{}: a float model has no quantized sites", args.model.display())).into()
        );
    }
    let data = args.images.open(&args.input, &input, Selection::default(), &progress)?;

    let shape = input.shape_for(data.item_shape())?;
    let (images, present) = load_batch(&data, 0, data.len().next_multiple_of(shape[0]))?;
    let output = match (Engine::new(&model, &graph, shape)?, &args.sites) {
        (Engine::Integer(runner), Some(folder)) => {
            let (output, values) = runner.run_sites(&images.view())?;
            write_sites(folder, runner.sites(), &values)?;
            output
        }
        (engine, _) => engine.run(&images)?,
    };
    if output.shape().first() != Some(&images.len_of(Axis(0))) {
        let why = format!("expected one for each image, found the shape {:?}", output.shape());
        return Err(Error::model("output", why).into());
    }
    let output = output.slice_axis(Axis(0), Slice::from(..present)).to_owned();
    let results = results(&data.names, &output)?;
    if let Some(path) = &args.output {
        write_npy(path, &output)?;
    }
    print(&results, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What a site's files are about.
#[derive(Serialize)]
struct SiteFile<'a> {
    name: &'a str,
    kind: &'a str,
    inputs: &'a [String],
    output: &'a str,
}

/// `<i>.json`, `<i>_in0.npy`, `<i>_in1.npy` where there are two, and `<i>_out.npy` for every site i.
fn write_sites(folder: &Path, sites: &[SiteInfo], values: &[SiteValues]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for (i, (site, values)) in sites.iter().zip(values).enumerate() {
        let about = SiteFile { name: &site.name, kind: site.op, inputs: &site.inputs, output: &site.output };
        let path = folder.join(format!("{i}.json"));
        files::write(&path, |file| Ok(serde_json::to_writer_pretty(file, &about)?))?;
        for (at, input) in values.inputs.iter().enumerate() {
            write_npy(&folder.join(format!("{i}_in{at}.npy")), input)?;
        }
        write_npy(&folder.join(format!("{i}_out.npy")), &values.output)?;
    }
    Ok(())
}

/// What is printed.
#[derive(Serialize)]
struct Results {
    shape: Vec<usize>,
    images: Vec<Image>,
}

#[derive(Serialize)]
struct Image {
    name: String,
    /// The most probable classes; empty if the model gives features.
    top: Vec<Class>,
}

#[derive(Serialize)]
struct Class {
    index: usize,
    probability: f64,
}

fn results(names: &[String], output: &ArrayD<f32>) -> Result<Results> {
    if let Some(x) = output.iter().find(|x| !x.is_finite()) {
        return Err(Error::model("output", format!("it holds {x}")).into());
    }
    let of_row = |(row, name): (usize, &String)| {
        let logits: Vec<f32> = output.index_axis(Axis(0), row).iter().copied().collect();
        let top = if output.ndim() == 2 { most_probable(&logits) } else { Vec::new() };
        Image { name: name.clone(), top }
    };
    Ok(Results { shape: output.shape().to_vec(), images: names.iter().enumerate().map(of_row).collect() })
}

fn most_probable(logits: &[f32]) -> Vec<Class> {
    let order = top(logits, 5);
    let max = order.first().map_or(0.0, |&class| f64::from(logits[class]));
    let weight = |class: usize| (f64::from(logits[class]) - max).exp();
    let sum: f64 = (0..logits.len()).map(weight).sum();
    order.into_iter().map(|index| Class { index, probability: weight(index) / sum }).collect()
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.images.iter().all(|image| image.top.is_empty()) {
            return writeln!(f, "features of shape {:?}", self.shape);
        }
        for image in &self.images {
            writeln!(f, "{}", image.name)?;
            let rows = image
                .top
                .iter()
                .map(|class| vec![class.index.to_string(), format!("{:.2} %", 100.0 * class.probability)]);
            f.write_str(&table(&["class", "probability"], &[Align::Right; 2], rows))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn probabilities_are_the_softmax() {
        let logits = array![[0.0, 3f32.ln(), 0.0]].into_dyn();
        let found = results(&["a.png".into()], &logits).unwrap();
        let expected =
            "a.png\n  class  probability\n      1      60.00 %\n      0      20.00 %\n      2      20.00 %\n";
        assert_eq!(found.to_string(), expected);
    }

    #[test]
    fn features_are_only_described() {
        let found = results(&["a.png".into()], &ArrayD::zeros(vec![1, 4, 8])).unwrap();
        assert_eq!(found.to_string(), "features of shape [1, 4, 8]\n");
        assert!(results(&["a.png".into()], &array![[f32::NAN]].into_dyn()).is_err());
    }
}
