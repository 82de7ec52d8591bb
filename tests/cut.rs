//! Models of which only a part can be computed or differentiated here, and models in operators that tract lacks.

mod common;

use std::sync::Mutex;

use common::{calibrate, dataset, image_value, kinds, opset, options, planned, quantized, runner, value};
use ndarray::{Array4, ArrayD, IxDyn};
use onnx_ptq4vit::calibrate::Run;
use onnx_ptq4vit::data::{Dataset, write_npy};
use onnx_ptq4vit::engine::Engine as _;
use onnx_ptq4vit::export::TwinForm;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, GraphProto, Model, ModelProto, NodeProto, TensorProto, tensor};
use onnx_ptq4vit::prepare::Prepared;
use onnx_ptq4vit::progress::Progress;

/// Numbers without a pattern.
fn weight(name: &str, dims: &[usize]) -> TensorProto {
    let number = |i: usize| ((i as f32 + 1.0) * 12.9898 + name.len() as f32 * 78.233).sin() * 0.4;
    tensor::from_f32(name, dims, &(0..dims.iter().product()).map(number).collect::<Vec<_>>())
}

fn ints(name: &str, values: &[i64]) -> TensorProto {
    tensor::from_i64(name, &[values.len()], values)
}

fn conv(x: &str, w: &str, y: &str, stride: i64) -> NodeProto {
    node("Conv", y, [x, w], [y]).with(AttributeProto::int_list("strides", &[stride, stride]))
}

/// A model of the input `x`, `[N, 3, 8, 8]`: its patches, `patches` `[N, 12, 2, 2]`, then `rest`.
fn model(rest: Vec<NodeProto>, constants: Vec<TensorProto>, outputs: &[&str]) -> Model {
    let mut nodes = vec![conv("x", "w_patch", "patches", 4)];
    nodes.extend(rest);
    let mut initializer = vec![weight("w_patch", &[12, 3, 4, 4]), weight("w", &[12, 12, 1, 1])];
    initializer.extend(constants);
    Model::new(ModelProto {
        ir_version: Some(9),
        opset_import: vec![opset("", 18)],
        graph: Some(GraphProto {
            input: vec![image_value("x", [None, Some(3), Some(8), Some(8)])],
            output: outputs.iter().map(|output| value(output)).collect(),
            initializer,
            node: nodes,
            ..Default::default()
        }),
        ..Default::default()
    })
    .unwrap()
}

fn images(count: usize) -> Array4<f32> {
    Array4::from_shape_fn((count, 3, 8, 8), |(n, c, h, w)| ((n * 7 + c * 5 + h * 3 + w) as f32).sin())
}

fn data(count: usize) -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    write_npy(&path, &images(count).into_dyn()).unwrap();
    let data = dataset(&path, 8, None);
    (folder, data)
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn stage(&self, _: &str, _: u64) {}
    fn step(&self, _: &str, _: u64) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
}

/// The notes of a calibration, and the quantized model.
#[track_caller]
fn calibrated(model: Model) -> (Vec<String>, Model) {
    let model = planned(model).unwrap();
    let (_folder, data) = data(4);
    let notes = Notes::default();
    let calibration = calibrate(&model, &data, &options(8, 8), Run::default(), &notes).unwrap();
    (notes.0.into_inner().unwrap(), quantized(&model, &calibration, TwinForm::Function))
}

/// `patches` through a linear layer, a `DeformConv`, another linear layer, and its output `y`.
fn with_unknown_operator() -> Vec<NodeProto> {
    vec![
        conv("patches", "w", "before", 1),
        conv("before", "w_offset", "offset", 1),
        node("DeformConv", "deform", ["before", "w", "offset"], ["deformed"]),
        conv("deformed", "w", "y", 1),
    ]
}

#[test]
fn what_lies_behind_an_unknown_operator_stays_in_float() {
    let model = || model(with_unknown_operator(), vec![weight("w_offset", &[2, 12, 1, 1])], &["y"]);
    let plan = planned(model()).unwrap();
    assert_eq!(kinds(&plan), ["patch", "linear", "linear"]);
    let reason = |name: &str| &plan.plan.float.iter().find(|node| node.node == name).unwrap().reason;
    assert_eq!(*reason("y"), "it lies behind node `deform` (DeformConv), which cannot be computed here");
    assert!(reason("deform").contains("tract has no such operator"), "{}", reason("deform"));

    let (notes, quantized) = calibrated(model());
    let [note] = &notes[..] else { panic!("{notes:?}") };
    for part in ["node `deform` (DeformConv)", "`before`", "`offset`"] {
        assert!(note.contains(part), "{note}");
    }
    let deform = quantized.graph().node.iter().find(|node| node.is_op("DeformConv")).unwrap();
    assert_eq!(deform.input, ["before", "w", "offset"]);
    let errors = [plan.model.float_engine([3, 8, 8]).unwrap_err(), runner(&quantized).unwrap_err()];
    for error in errors.map(|error| (error.exit_code(), error.to_string())) {
        assert_eq!(error.0, 4);
        assert!(error.1.contains("node `deform` (DeformConv): output `y`"), "{}", error.1);
    }
}

#[test]
fn an_output_before_the_unknown_operator_is_computed() {
    let outputs = &["before", "y"];
    let model = model(with_unknown_operator(), vec![weight("w_offset", &[2, 12, 1, 1])], outputs);
    let float = planned(model.clone()).unwrap().model.float_engine([3, 8, 8]).unwrap();
    let (_, quantized) = calibrated(model);
    let [float, quantized] =
        [float.run(&images(2).view()), runner(&quantized).unwrap().run(&images(2).view())];
    let (float, quantized) = (float.unwrap(), quantized.unwrap());
    assert_eq!(float.shape(), [2, 12, 2, 2]);
    let error = (&float - &quantized).mapv(|x| x * x).sum() / float.mapv(|x| x * x).sum();
    assert!(error > 0.0 && error < 1e-2, "{error}");
}

#[test]
fn a_model_that_is_unknown_from_the_start_has_no_site() {
    let nodes = vec![
        node("DeformConv", "deform", ["x", "w_deform", "x"], ["deformed"]),
        conv("deformed", "w", "y", 1),
    ];
    let mut model = model(nodes, vec![weight("w_deform", &[12, 3, 1, 1])], &["y"]);
    model.proto.graph.as_mut().unwrap().node.remove(0);
    let error = planned(model).err().unwrap();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("lies behind node `deform` (DeformConv)"), "{error}");
}

/// Cubic sampling has no gradient rule: the loss is taken before it, and every site has a gradient.
#[test]
fn gradients_end_before_an_operator_without_a_rule() {
    let sampled = |mode| {
        let sample = node("GridSample", "sample", ["before", "grid"], ["sampled"]);
        let nodes = vec![
            conv("patches", "w", "before", 1),
            sample.with(AttributeProto::string("mode", mode)),
            conv("sampled", "w", "y", 1),
        ];
        let grid = tensor::from_f32("grid", &[1, 1, 2, 2], &[-0.3, 0.2, 0.4, -0.1]);
        calibrated(model(nodes, vec![grid], &["y"])).0
    };
    let notes = sampled("bicubic");
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert!(note.contains("GridSample `sample` has no gradient rule"), "{note}");
    assert_eq!(sampled("bilinear"), [] as [&str; 0]);
}

#[test]
fn sites_without_a_gradient_are_named() {
    let nodes = vec![
        conv("patches", "w", "before", 1),
        node("Round", "round", ["before"], ["rounded"]),
        conv("rounded", "w", "y", 1),
    ];
    let (notes, _) = calibrated(model(nodes, vec![], &["y"]));
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert!(note.contains("2 of 3 sites have a gradient of zero") && note.contains("`before`"), "{note}");
}

/// The batch of 2 is in the shape of a Reshape, and nowhere else.
#[test]
fn a_batch_in_the_reshapes_is_found() {
    let reshaped = |first: i64| {
        let nodes = vec![
            node("Reshape", "flat", ["patches", "shape"], ["tokens"]),
            node("MatMul", "linear", ["tokens", "w_linear"], ["y"]),
        ];
        model(nodes, vec![ints("shape", &[first, 12, 4]), weight("w_linear", &[4, 5])], &["y"])
    };
    let any = Prepared::new(reshaped(-1)).unwrap();
    assert_eq!((any.input().unwrap().written_out, any.input().unwrap().batch()), (None, 1));
    let two = Prepared::new(reshaped(2)).unwrap();
    assert_eq!((two.input().unwrap().written_out, two.input().unwrap().batch()), (Some(2), 2));

    // The last batch of three images is filled up.
    let outputs = [-1, 2].map(|first| {
        let (_, quantized) = calibrated(reshaped(first));
        let runner = runner(&quantized).unwrap();
        runner.run(&images(3).view()).unwrap()
    });
    assert_eq!(outputs[0].shape(), [3, 12, 5]);
    let close = outputs[0].iter().zip(&outputs[1]).all(|(a, b)| (a - b).abs() < 0.05);
    assert!(close, "{outputs:?}");
}

/// In a quantized file the batch is found behind a twin matmul too, which is a call of a function.
#[test]
fn a_batch_behind_a_twin_is_found() {
    let nodes = vec![
        node("Transpose", "last", ["patches"], ["tokens"])
            .with(AttributeProto::int_list("perm", &[0, 2, 3, 1])),
        node("MatMul", "fc1", ["tokens", "w_fc1"], ["hidden"]),
        node("Sigmoid", "sigmoid", ["hidden"], ["gate"]),
        node("Mul", "silu", ["hidden", "gate"], ["activated"]),
        node("MatMul", "fc2", ["activated", "w_twin"], ["product"]),
        node("Reshape", "flat", ["product", "shape"], ["y"]),
    ];
    let weights = [weight("w_fc1", &[12, 12]), weight("w_twin", &[12, 5])];
    let model = model(nodes, [&weights[..], &[ints("shape", &[2, 20])]].concat(), &["y"]);
    let (_, quantized) = calibrated(model);
    let graph = quantized.graph();
    assert!(graph.node.iter().any(|node| node.domain() == "ai.ptq4vit" && node.output == ["product"]));
    assert_eq!(runner(&quantized).unwrap().run(&images(3).view()).unwrap().shape(), [3, 20]);
}

/// What the float engine gives of `rest`, for two images; and the patches.
fn computed(rest: &[NodeProto], constants: &[TensorProto]) -> (ArrayD<f32>, ArrayD<f32>) {
    let run = |output: &str| {
        let model = Prepared::new(model(rest.to_vec(), constants.to_vec(), &[output])).unwrap();
        model.float_engine([3, 8, 8]).unwrap().run(&images(2).view()).unwrap()
    };
    (run("patches"), run("y"))
}

#[track_caller]
fn assert_close(found: &ArrayD<f32>, expected: &ArrayD<f32>) {
    assert_eq!(found.shape(), expected.shape());
    let error = (found - expected).mapv(f32::abs).into_iter().fold(0.0, f32::max);
    assert!(error < 1e-5, "{error}");
}

/// Blocks of 2 × 2 elements, three of them, overlap in an image of 3 × 6: strides, dilations and pads differ by axis.
#[test]
fn blocks_are_summed_into_an_image() {
    let fold = node("Col2Im", "fold", ["blocks", "image", "window"], ["y"])
        .with(AttributeProto::int_list("strides", &[1, 2]))
        .with(AttributeProto::int_list("dilations", &[2, 1]))
        .with(AttributeProto::int_list("pads", &[0, 1, 1, 0]));
    let nodes = [node("Reshape", "", ["patches", "shape"], ["blocks"]), fold];
    let constants = [ints("shape", &[-1, 8, 6]), ints("image", &[3, 6]), ints("window", &[2, 2])];
    let (patches, y) = computed(&nodes, &constants);
    let blocks = patches.into_shape_with_order(IxDyn(&[2, 8, 6])).unwrap();
    let mut expected = ArrayD::zeros(IxDyn(&[2, 2, 3, 6]));
    for (index, block) in blocks.indexed_iter() {
        let (n, c, [i, j]) = (index[0], index[1] / 4, [index[1] / 2 % 2, index[1] % 2]);
        let (row, column) = (index[2] / 3 + 2 * i, (2 * (index[2] % 3) + j).checked_sub(1));
        if let Some(column) = column
            && row < 3
        {
            expected[[n, c, row, column]] += block;
        }
    }
    assert_close(&y, &expected);
}

#[test]
fn channels_are_normalized_by_their_neighbours() {
    let lrn = node("LRN", "lrn", ["patches"], ["y"])
        .with(AttributeProto::int("size", 4))
        .with(AttributeProto::float("alpha", 0.5))
        .with(AttributeProto::float("beta", 0.6))
        .with(AttributeProto::float("bias", 1.5));
    let (x, y) = computed(&[lrn], &[]);
    let expected = ArrayD::from_shape_fn(x.raw_dim(), |at| {
        let mut other = at.clone();
        let channels = at[1].saturating_sub(1)..(at[1] + 3).min(12);
        let squares: f32 = channels
            .map(|channel| {
                other[1] = channel;
                x[&other].powi(2)
            })
            .sum();
        x[&at] / (1.5 + 0.5 / 4.0 * squares).powf(0.6)
    });
    assert_close(&y, &expected);
}

/// Behind a Reshape, and from the end, tract's own form of a slice with a step fails or is another.
#[test]
fn slices_may_have_steps() {
    for (start, end, step) in [(0, i64::MAX, 2), (1, 11, 3), (-1, i64::MIN, -2)] {
        let slice = node("Slice", "slice", ["rows", "starts", "ends", "axes", "steps"], ["y"]);
        let nodes = [node("Reshape", "", ["patches", "shape"], ["rows"]), slice];
        let [starts, ends, steps] =
            [("starts", start), ("ends", end), ("steps", step)].map(|(name, x)| ints(name, &[x]));
        let constants = [ints("shape", &[0, 16, 3]), ints("axes", &[1]), starts, ends, steps];
        let (x, y) = computed(&nodes, &constants);
        let x = x.into_shape_with_order(IxDyn(&[2, 16, 3])).unwrap();
        let kept: Vec<usize> = match step {
            2 => (0..16).step_by(2).collect(),
            3 => (1..11).step_by(3).collect(),
            _ => (0..16).rev().step_by(2).collect(),
        };
        assert_close(&y, &x.select(ndarray::Axis(1), &kept));
    }
}
