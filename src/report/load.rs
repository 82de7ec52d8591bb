//! How a quantized file is loaded where it will run.

use crate::Result;
use crate::export::Target;
use crate::onnx::{DataType, Graph, Model};

/// One input of the file.
struct Input<'g> {
    name: &'g str,
    element: DataType,
    /// `None` where the file leaves an axis open.
    dims: Vec<Option<i64>>,
}

/// The lines of Python, of JavaScript or of a shell that load `model`, which is in the file `path`, and run it once.
pub fn load(target: Target, path: &str, model: &Model) -> Result<Vec<String>> {
    let graph = Graph::new(model.clone())?;
    let input = |name| Input {
        name,
        element: graph.data_type(name).unwrap_or(DataType::Float),
        dims: graph.shape(name).unwrap_or_default(),
    };
    let inputs: Vec<Input> = graph.inputs().map(|info| input(info.name())).collect();
    Ok(match target {
        Target::Generic | Target::OnnxRuntime => vec![
            "import onnxruntime".into(),
            format!("session = onnxruntime.InferenceSession({path:?})"),
            format!("outputs = session.run(None, {})", python(&inputs)),
        ],
        Target::OpenVino => vec![
            "import openvino".into(),
            format!("model = openvino.compile_model({path:?}, \"CPU\")"),
            format!("outputs = model({})", python(&inputs)),
        ],
        Target::Web => vec![
            "import * as ort from \"onnxruntime-web\";".into(),
            format!("const session = await ort.InferenceSession.create({path:?});"),
            format!("const outputs = await session.run({});", javascript(&inputs)),
        ],
        Target::TensorRt => {
            let shapes: Vec<String> =
                inputs.iter().map(|input| format!("{}:{}", input.name, joined(input, "x"))).collect();
            vec![
                format!("trtexec --stronglyTyped --onnx={path:?} \\"),
                format!("    --shapes={:?} \\", shapes.join(",")),
                format!("    --saveEngine={:?}", format!("{path}.engine")),
            ]
        }
    })
}

/// `{"input": images}`, the other inputs under their own names.
fn python(inputs: &[Input]) -> String {
    format!("{{{}}}", entries(inputs, "images", |_, variable| variable))
}

fn javascript(inputs: &[Input]) -> String {
    let tensor = |input: &Input, variable| {
        let kind = match input.element {
            DataType::Uint8 => "uint8",
            DataType::Int32 => "int32",
            DataType::Int64 => "int64",
            DataType::Bool => "bool",
            DataType::Float16 => "float16",
            DataType::Double => "float64",
            _ => "float32",
        };
        format!("new ort.Tensor({kind:?}, {variable}, [{}])", joined(input, ", "))
    };
    format!("{{ {} }}", entries(inputs, "pixels", tensor))
}

/// `"name": value` of each input, the value made of its variable, which is `images` for the first, and for the others is
/// called like the input.
fn entries(inputs: &[Input], images: &str, value: impl Fn(&Input, String) -> String) -> String {
    let variable = |at: usize, name: &str| if at == 0 { images.into() } else { identifier(name) };
    let entry = |(at, input): (usize, &Input)| {
        format!("{:?}: {}", input.name, value(input, variable(at, input.name)))
    };
    inputs.iter().enumerate().map(entry).collect::<Vec<_>>().join(", ")
}

/// The dims of one image: a batch that is open is 1, and so is what else the file leaves open but for a height and a width.
fn joined(input: &Input, by: &str) -> String {
    let open = |axis: usize| if axis >= 2 && input.dims.len() == 4 { 224 } else { 1 };
    let dims = input.dims.iter().enumerate().map(|(axis, dim)| dim.unwrap_or(open(axis)).to_string());
    dims.collect::<Vec<_>>().join(by)
}

/// A name of a variable that is like that of an input.
fn identifier(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = name.chars().map(letter).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(target: Target) -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits_vit_ts17.onnx");
        let model = Model::read(std::path::Path::new(file)).unwrap();
        load(target, "a \"b\".onnx", &model).unwrap().join("\n")
    }

    #[test]
    fn paths_are_quoted_and_one_image_has_the_sizes_of_the_file() {
        let python = "outputs = session.run(None, {\"images\": images})";
        assert!(lines(Target::Generic).ends_with(python), "{}", lines(Target::Generic));
        assert!(lines(Target::OpenVino).contains(r#"compile_model("a \"b\".onnx", "CPU")"#));
        let web = "run({ \"images\": new ort.Tensor(\"float32\", pixels, [1, 3, 8, 8]) });";
        assert!(lines(Target::Web).ends_with(web), "{}", lines(Target::Web));
        assert!(
            lines(Target::TensorRt).contains("--shapes=\"images:1x3x8x8\""),
            "{}",
            lines(Target::TensorRt)
        );
    }

    #[test]
    fn names_of_inputs_become_names_of_variables() {
        assert_eq!(identifier("0/attention.mask"), "_0_attention_mask");
        assert_eq!(identifier("mask"), "mask");
    }
}
