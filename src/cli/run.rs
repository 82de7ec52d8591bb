//! `run`: a model on a few images.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use ndarray::{ArrayD, Axis};
use onnx_ptq4vit::Error;
use onnx_ptq4vit::check::top;
use onnx_ptq4vit::data::{Selection, write_npy};
use onnx_ptq4vit::engine::{Reading, Tapped};
use onnx_ptq4vit::files;
use onnx_ptq4vit::integer::{self, SiteInfo};
use onnx_ptq4vit::preprocessing;
use onnx_ptq4vit::report::{Align, table};
use onnx_ptq4vit::text::shown;
use serde::Serialize;

use super::engine::EngineArgs;
use super::images::ImageArgs;
use super::interrupt::whole;
use super::model::{ModelArgs, give, say};
use super::output::{print, same_file};
use super::progress::Stderr;
use super::values::NamedInput;

/// Run a model, float or quantized
///
/// Prints the five most probable classes of every image. A quantized model runs in integer arithmetic, unless
/// --engine says otherwise.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The model
    model: PathBuf,
    /// An image, a folder of images, a CSV file with a `path` column, .npy or .npz; as NAME=VALUE, the value of an input
    /// beside the images
    #[arg(long = "input", value_name = "PATH|NAME=VALUE", required = true)]
    inputs: Vec<String>,
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
    engine: EngineArgs,
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
    let (input, others) = inputs(args)?;
    args.engine.ensure_ready(args.sites.is_some())?;
    if let Some(output) = &args.output {
        if same_file(output, &args.model) || same_file(output, &input) {
            return Err(Error::usage(format!("{}: would overwrite an input", output.display())).into());
        }
        whole(|| files::ensure_writable_as(output, files::Kind::Npy))?;
    }
    if let Some(folder) = &args.sites {
        files::ensure_own_folder(folder)?;
    }
    let model = give(args.reading.read(&args.model)?, &others, &input)?;
    say(&model, &progress)?;
    if args.sites.is_some() && !model.is_quantized() {
        return Err(
            Error::usage(format!("{}: a float model has no quantized sites", args.model.display())).into()
        );
    }
    let recorded = preprocessing::recorded(&model)?;
    let data = args.images.open(&input, &model, recorded, Selection::default(), true, &progress)?;
    let sites = if args.sites.is_some() { integer::contents(model.graph())?.sites } else { Vec::new() };
    let taps: Vec<&str> =
        sites.iter().flat_map(|site| site.inputs.iter().chain([&site.output])).map(String::as_str).collect();
    let engine = args.engine.engine(&model, data.item_shape())?;
    let Tapped { output, values } = engine.run_tapped(&data.batch(0..data.len())?.view(), &taps)?;
    if let Some(folder) = &args.sites {
        whole(|| write_sites(folder, &sites, values))?;
    }
    if output.shape().first() != Some(&data.len()) {
        let why = format!("expected one for each image, found the shape {:?}", output.shape());
        return Err(Error::model("output", why).into());
    }
    let mut results = results(&data.names, &output, model.outputs()?.compared.1)?;
    let classes = args.images.class_names(&model)?;
    for class in results.images.iter_mut().flat_map(|image| &mut image.top) {
        class.name = classes.get(class.index).cloned();
    }
    if let Some(path) = &args.output {
        whole(|| write_npy(path, &output))?;
    }
    print(&results, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The images, and the inputs beside them.
fn inputs(args: &Args) -> Result<(PathBuf, Vec<NamedInput>)> {
    let is_named = |input: &&String| input.contains('=') && !Path::new(input).exists();
    let (named, paths): (Vec<&String>, Vec<&String>) = args.inputs.iter().partition(is_named);
    let [path] = paths[..] else {
        let why = format!("--input: expected one path to images, found {}", paths.len());
        return Err(Error::usage(why).into());
    };
    let named =
        named.into_iter().map(|input| input.parse().map_err(Error::usage)).collect::<Result<_, _>>()?;
    Ok((PathBuf::from(path), named))
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
fn write_sites(folder: &Path, sites: &[SiteInfo], values: Vec<ArrayD<f32>>) -> Result<()> {
    files::make_folder(folder)?;
    let mut values = values.into_iter();
    let mut next = || values.next().expect("every site was tapped");
    for (i, site) in sites.iter().enumerate() {
        let about = SiteFile { name: &site.name, kind: site.op, inputs: &site.inputs, output: &site.output };
        let path = folder.join(format!("{i}.json"));
        files::write(&path, |file| Ok(serde_json::to_writer_pretty(file, &about)?))?;
        for at in 0..site.inputs.len() {
            write_npy(&folder.join(format!("{i}_in{at}.npy")), &next())?;
        }
        write_npy(&folder.join(format!("{i}_out.npy")), &next())?;
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
    /// The most probable classes or labels; empty if the model gives others.
    top: Vec<Class>,
    /// The numbers that it gives, where each has a meaning of its own.
    numbers: Vec<f32>,
}

#[derive(Serialize)]
struct Class {
    index: usize,
    name: Option<String>,
    probability: f64,
}

fn results(names: &[String], output: &ArrayD<f32>, reading: Reading) -> Result<Results> {
    if let Some(x) = output.iter().find(|x| !x.is_finite()) {
        return Err(Error::model("output", format!("it holds {x}")).into());
    }
    let of_row = |(row, name): (usize, &String)| {
        let values: Vec<f32> = output.index_axis(Axis(0), row).iter().copied().collect();
        let sigmoid = |x: &f32| 1.0 / (1.0 + (-f64::from(*x)).exp());
        let plain = |x: &f32| f64::from(*x);
        let (mut top, mut numbers) = (Vec::new(), Vec::new());
        match reading {
            _ if output.ndim() != 2 => {}
            Reading::Logits(_) => top = most_probable(&values, &softmax(&values)),
            Reading::LabelLogits => {
                top = most_probable(&values, &values.iter().map(sigmoid).collect::<Vec<_>>());
            }
            Reading::Probabilities | Reading::LabelProbabilities => {
                top = most_probable(&values, &values.iter().map(plain).collect::<Vec<_>>());
            }
            Reading::Numbers => numbers = values,
            _ => {}
        }
        Image { name: name.clone(), top, numbers }
    };
    Ok(Results { shape: output.shape().to_vec(), images: names.iter().enumerate().map(of_row).collect() })
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn most_probable(values: &[f32], probabilities: &[f64]) -> Vec<Class> {
    top(values, 5)
        .into_iter()
        .map(|index| Class { index, name: None, probability: probabilities[index] })
        .collect()
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.images.iter().any(|image| !image.numbers.is_empty()) {
            for Image { name, numbers, .. } in &self.images {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                writeln!(f, "{}  {}", shown(name), numbers.join("  "))?;
            }
            return Ok(());
        }
        if self.images.iter().all(|image| image.top.is_empty()) {
            return writeln!(f, "features of shape {:?}", self.shape);
        }
        for image in &self.images {
            writeln!(f, "{}", shown(&image.name))?;
            let named = image.top.iter().any(|class| class.name.is_some());
            let row = |class: &Class| {
                let name = class.name.as_deref().map(|name| shown(name).into_owned());
                let cells = [class.index.to_string(), format!("{:.2} %", 100.0 * class.probability)];
                cells.into_iter().chain(named.then(|| name.unwrap_or_default())).collect()
            };
            let columns = if named { 3 } else { 2 };
            let align = [Align::Right, Align::Right, Align::Left];
            let heading = ["class", "probability", "name"];
            f.write_str(&table(&heading[..columns], &align[..columns], image.top.iter().map(row)))?;
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
        let found = results(&["a.png".into()], &logits, Reading::Logits(None)).unwrap();
        let expected =
            "a.png\n  class  probability\n      1      60.00 %\n      0      20.00 %\n      2      20.00 %\n";
        assert_eq!(found.to_string(), expected);
    }

    #[test]
    fn features_are_only_described() {
        let found = results(&["a.png".into()], &ArrayD::zeros(vec![1, 4, 8]), Reading::Features).unwrap();
        assert_eq!(found.to_string(), "features of shape [1, 4, 8]\n");
        assert!(results(&["a.png".into()], &array![[f32::NAN]].into_dyn(), Reading::Features).is_err());
    }
}
