//! Small models with one thing spelled as people's files have it: quantized whole, and close to the float model.

mod common;

use common::{
    calibrated, dataset, file_of, float_output, image_value, kinds, options, planned, quantized, value,
};
use ndarray::Array4;
use onnx_ptq4vit::check::Sqnr;
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::export::TwinForm;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, GraphProto, Model, NodeProto, TensorProto, tensor};

/// A model under construction; its input is `x`, `[N, 3, 8, 8]`.
#[derive(Default)]
struct Builder {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl Builder {
    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        let output = format!("{}_{}", op.to_lowercase(), self.nodes.len());
        self.nodes.push(node(op, &format!("/{output}"), inputs.iter().copied(), [output.as_str()]));
        output
    }

    fn with(&mut self, attribute: AttributeProto) {
        self.nodes.last_mut().unwrap().attribute.push(attribute);
    }

    /// Numbers without a pattern, of which most are small.
    fn weight(&mut self, dims: &[usize]) -> String {
        let name = format!("w{}", self.constants.len());
        let seed = self.constants.len() as f32;
        let number = |i: usize| ((i as f32 + 1.0) * 12.9898 + seed * 78.233).sin() * 0.4;
        let values: Vec<f32> = (0..dims.iter().product()).map(number).collect();
        self.constants.push(tensor::from_f32(&name, dims, &values));
        name
    }

    fn ints(&mut self, ints: &[i64]) -> String {
        let name = format!("i{}", self.constants.len());
        self.constants.push(tensor::from_i64(&name, &[ints.len()], ints));
        name
    }

    fn conv(&mut self, x: &str, weight: &[usize], stride: i64) -> String {
        let w = self.weight(weight);
        let y = self.op("Conv", &[x, &w]);
        self.with(AttributeProto::int_list("strides", &[stride, stride]));
        y
    }

    /// `[N, 3, 8, 8]` as four tokens of width 12.
    fn tokens(&mut self) -> String {
        let map = self.conv("x", &[12, 3, 4, 4], 4);
        let shape = self.ints(&[0, 12, 4]);
        let flat = self.op("Reshape", &[&map, &shape]);
        let tokens = self.op("Transpose", &[&flat]);
        self.with(AttributeProto::int_list("perm", &[0, 2, 1]));
        tokens
    }

    /// The mean over the tokens, classified.
    fn classified(mut self, tokens: &str) -> Model {
        let mean = self.op("ReduceMean", &[tokens]);
        self.with(AttributeProto::int_list("axes", &[1]));
        self.with(AttributeProto::int("keepdims", 0));
        let w = self.weight(&[12, 5]);
        self.nodes.push(node("MatMul", "/head", [mean.as_str(), &w], ["logits"]));
        Model::new(file_of(GraphProto {
            input: vec![image_value("x", [None, Some(3), Some(8), Some(8)])],
            output: vec![value("logits")],
            initializer: self.constants,
            node: self.nodes,
            ..Default::default()
        }))
        .unwrap()
    }
}

/// Every product is quantized as `expected` says, and the result is close to the float model's, in both forms.
#[track_caller]
fn check(model: Model, expected: &str) {
    let mut model = planned(model).unwrap();
    assert_eq!(kinds(&model).join(" "), expected);
    let count = model.plan.count(&model.model, [3, 8, 8]).unwrap();
    assert_eq!(count.integer_percent(), 100.0, "{:?}", model.plan.float);
    let images =
        Array4::from_shape_fn((3, 3, 8, 8), |(n, c, h, w)| ((n * 7 + c * 5 + h * 3 + w) as f32).sin());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    write_npy(&path, &images.clone().into_dyn()).unwrap();
    let calibration = calibrated(&model, &dataset(&path, 8, None), &options(8, 8));
    let float = float_output(&model, &images.view()).unwrap();
    let outputs = [TwinForm::Function, TwinForm::Inline]
        .map(|form| common::quantized_output(&quantized(&model, &calibration, form), &images.view()));
    assert_eq!(outputs[0], outputs[1]);
    let sqnr = Sqnr::of(&float, &outputs[0]).db().unwrap();
    assert!(sqnr > 20.0, "{sqnr} dB");
}

#[test]
fn pointwise_convolutions_are_linear_layers() {
    let mut b = Builder::default();
    let map = b.conv("x", &[12, 3, 4, 4], 4);
    let hidden = b.conv(&map, &[20, 12, 1, 1], 1);
    let sigmoid = b.op("Sigmoid", &[&hidden]);
    let silu = b.op("Mul", &[&hidden, &sigmoid]);
    let map = b.conv(&silu, &[12, 20, 1, 1], 1);
    let shape = b.ints(&[0, 12, 4]);
    let flat = b.op("Reshape", &[&map, &shape]);
    let tokens = b.op("Transpose", &[&flat]);
    b.with(AttributeProto::int_list("perm", &[0, 2, 1]));
    check(b.classified(&tokens), "patch fc1 fc2 head");
}

/// Windows that overlap, are padded, skip pixels or see a group of the channels; a result that two nodes take.
#[test]
fn convolutions_are_sites() {
    let mut b = Builder::default();
    let map = b.conv("x", &[16, 3, 2, 2], 2);
    let padded = |b: &mut Builder, x: &str, weight: &[usize], stride: i64| {
        let (w, bias) = (b.weight(weight), b.weight(&weight[..1]));
        let y = b.op("Conv", &[x, &w, &bias]);
        b.with(AttributeProto::int_list("strides", &[stride, stride]));
        b.with(AttributeProto::int_list("pads", &[1, 1, 1, 1]));
        b.with(AttributeProto::int("group", (16 / weight[1]) as i64));
        y
    };
    let map = padded(&mut b, &map, &[16, 16, 3, 3], 1);
    let sigmoid = b.op("Sigmoid", &[&map]);
    let map = b.op("Mul", &[&map, &sigmoid]);
    let map = padded(&mut b, &map, &[16, 8, 3, 3], 2);
    let map = b.conv(&map, &[40, 16, 1, 1], 1);
    let map = b.conv(&map, &[12, 40, 1, 1], 1);
    let shape = b.ints(&[0, 12, 4]);
    let flat = b.op("Reshape", &[&map, &shape]);
    let tokens = b.op("Transpose", &[&flat]);
    b.with(AttributeProto::int_list("perm", &[0, 2, 1]));
    check(b.classified(&tokens), "patch conv conv linear linear head");
}

/// A weight behind a Cast, the sum of a weight and a product of two thin ones (a low-rank adapter), and a normalized weight.
#[test]
fn weights_that_are_computed_from_constants_are_constants() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let w = b.weight(&[12, 12]);
    let cast = b.op("Cast", &[&w]);
    b.with(AttributeProto::int("to", 1));
    let x = b.op("MatMul", &[&tokens, &cast]);
    let (w, down, up) = (b.weight(&[12, 12]), b.weight(&[12, 2]), b.weight(&[2, 12]));
    let low_rank = b.op("MatMul", &[&down, &up]);
    let sum = b.op("Add", &[&w, &low_rank]);
    let x = b.op("MatMul", &[&x, &sum]);
    let (v, g) = (b.weight(&[12, 12]), b.weight(&[1, 12]));
    let norm = b.op("ReduceL2", &[&v]);
    b.with(AttributeProto::int_list("axes", &[0]));
    let unit = b.op("Div", &[&v, &norm]);
    let scaled = b.op("Mul", &[&unit, &g]);
    let x = b.op("MatMul", &[&x, &scaled]);
    check(b.classified(&x), "patch linear linear linear head");
}

/// Attention over three axes, whose Softmax counts its axis from the front.
#[test]
fn a_softmax_may_count_its_axis_from_the_front() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let [q, k, v] = [0; 3].map(|_| {
        let w = b.weight(&[12, 12]);
        b.op("MatMul", &[&tokens, &w])
    });
    let k = b.op("Transpose", &[&k]);
    b.with(AttributeProto::int_list("perm", &[0, 2, 1]));
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.op("Softmax", &[&scores]);
    b.with(AttributeProto::int("axis", 2));
    let mixed = b.op("MatMul", &[&p, &v]);
    check(b.classified(&mixed), "patch q k v scores values head");
}

/// A bias with more axes than its product decides the shape of the result.
#[test]
fn a_bias_of_higher_rank_keeps_its_axes() {
    for pooled in [false, true] {
        let mut b = Builder::default();
        let tokens = b.tokens();
        let x = if pooled {
            let mean = b.op("ReduceMean", &[&tokens]);
            b.with(AttributeProto::int_list("axes", &[1]));
            b.with(AttributeProto::int("keepdims", 0));
            mean
        } else {
            tokens
        };
        let w = b.weight(&[12, 12]);
        let product = b.op("MatMul", &[&x, &w]);
        let bias = b.weight(if pooled { &[1, 1, 12] } else { &[1, 1, 1, 12] });
        let sum = b.op("Add", &[&product, &bias]);
        let shape = b.ints(&[-1, if pooled { 1 } else { 4 }, 12]);
        let x = b.op("Reshape", &[&sum, &shape]);
        check(b.classified(&x), "patch linear head");
    }
}
