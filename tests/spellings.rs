//! Small models with one thing spelled as people's files have it: quantized whole, and close to the float model.

mod common;

use common::{
    Planned, calibrated, dataset, file_of, float_output, image_value, kinds, options, planned, quantized,
    value,
};
use ndarray::Array4;
use onnx_ptq4vit::check::Sqnr;
use onnx_ptq4vit::data::write_npy;
use onnx_ptq4vit::export::TwinForm;
use onnx_ptq4vit::integer::SiteInfo;
use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, GraphProto, Model, NodeProto, TensorProto, tensor};
use onnx_ptq4vit::plan::{RhsOperand, Site, plan};

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

    /// A scalar.
    fn int(&mut self, int: i64) -> String {
        let name = format!("i{}", self.constants.len());
        self.constants.push(tensor::from_i64(&name, &[], &[int]));
        name
    }

    fn float(&mut self, float: f32) -> String {
        let name = format!("f{}", self.constants.len());
        self.constants.push(tensor::from_f32(&name, &[], &[float]));
        name
    }

    /// Parts of these sizes along the last axis.
    fn split(&mut self, x: &str, sizes: &str, parts: [&str; 3]) {
        self.nodes.push(node("Split", "/split", [x, sizes], parts));
        self.with(AttributeProto::int("axis", -1));
    }

    fn conv(&mut self, x: &str, weight: &[usize], stride: i64) -> String {
        let w = self.weight(weight);
        let y = self.op("Conv", &[x, &w]);
        self.with(AttributeProto::int_list("strides", &[stride, stride]));
        y
    }

    fn linear(&mut self, x: &str, weight: [usize; 2]) -> String {
        let w = self.weight(&weight);
        self.op("MatMul", &[x, &w])
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.op("Reshape", &[x, &shape])
    }

    fn transpose(&mut self, x: &str, perm: &[i64]) -> String {
        let y = self.op("Transpose", &[x]);
        self.with(AttributeProto::int_list("perm", perm));
        y
    }

    fn softmax(&mut self, x: &str, axis: i64) -> String {
        let p = self.op("Softmax", &[x]);
        self.with(AttributeProto::int("axis", axis));
        p
    }

    /// Four tokens of width 12 as two heads: `[N, 4, 12]` to `[N, 2, 4, 6]`.
    fn in_heads(&mut self, x: &str) -> String {
        let heads = self.reshape(x, &[0, 4, 2, 6]);
        self.transpose(&heads, &[0, 2, 1, 3])
    }

    /// Q, K and V of two heads, from a projection each.
    fn projected(&mut self, tokens: &str) -> [String; 3] {
        [0; 3].map(|_| {
            let x = self.linear(tokens, [12, 12]);
            self.in_heads(&x)
        })
    }

    /// The heads side by side: `[N, 2, 4, 6]` to `[N, 4, 12]`.
    fn merged(&mut self, heads: &str) -> String {
        let tokens = self.transpose(heads, &[0, 2, 1, 3]);
        self.reshape(&tokens, &[0, 4, 12])
    }

    /// The mean over the tokens of what a projection makes of two heads, classified.
    fn projects(mut self, heads: &str) -> Model {
        let tokens = self.merged(heads);
        let tokens = self.linear(&tokens, [12, 12]);
        self.classified(&tokens)
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
    let model = planned(model).unwrap();
    check_plan(&model, expected);
    let sqnr = compare(&model).1;
    assert!(sqnr > 20.0, "{sqnr} dB");
}

/// As [`check`], and the products of two activations alone, all others in float, change the result little. The ops of these
/// products in the quantized model, and how many scales each has.
#[track_caller]
fn check_products(model: Model, expected: &str) -> Vec<(&'static str, usize)> {
    let model = planned(model).unwrap();
    check_plan(&model, expected);
    let (sites, sqnr) = compare(&model);
    assert!(sqnr > 12.0, "{sqnr} dB");
    let has_weight = |site: &&Site| matches!(site.b, RhsOperand::Weight { .. });
    let weights: Vec<String> =
        model.plan.sites.iter().filter(has_weight).map(|site| site.name.clone()).collect();
    let plan = plan(&model.model, &weights).unwrap();
    let sqnr = compare(&Planned { model: model.model, plan }).1;
    assert!(sqnr > 20.0, "{sqnr} dB of the products alone");
    sites.iter().filter(|site| site.inputs.len() == 2).map(|site| (site.op, site.a.len())).collect()
}

#[track_caller]
fn check_plan(model: &Planned, expected: &str) {
    assert_eq!(kinds(model).join(" "), expected);
    let count = model.plan.clone().count(&model.model, [3, 8, 8]).unwrap();
    assert_eq!(count.integer_percent(), 100.0, "{:?}", model.plan.float);
}

/// The sites of the quantized model, and its SQNR against the float model: the same in both forms.
#[track_caller]
fn compare(model: &Planned) -> (Vec<SiteInfo>, f64) {
    let images =
        Array4::from_shape_fn((3, 3, 8, 8), |(n, c, h, w)| ((n * 7 + c * 5 + h * 3 + w) as f32).sin());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npy");
    write_npy(&path, &images.clone().into_dyn()).unwrap();
    let calibration = calibrated(model, &dataset(&path, 8, None), &options(8, 8));
    let float = float_output(model, &images.view()).unwrap();
    let models = [TwinForm::Function, TwinForm::Inline].map(|form| quantized(model, &calibration, form));
    let outputs = [0, 1].map(|form| common::quantized_output(&models[form], &images.view()));
    assert_eq!(outputs[0], outputs[1]);
    (common::sites(&models[0]).unwrap(), Sqnr::of(&float, &outputs[0]).db().unwrap())
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

/// Over three axes, and from each pixel to a patch.
#[test]
fn other_convolutions_of_one_pixel_are_linear_layers() {
    let mut b = Builder::default();
    let map = b.conv("x", &[40, 3, 4, 4], 4);
    let (w, bias) = (b.weight(&[40, 12, 2, 2]), b.weight(&[12]));
    let map = b.op("ConvTranspose", &[&map, &w, &bias]);
    b.with(AttributeProto::int_list("strides", &[2, 2]));
    let shape = b.ints(&[0, 48, 4]);
    let flat = b.op("Reshape", &[&map, &shape]);
    let (w, bias) = (b.weight(&[12, 48, 1]), b.weight(&[12]));
    let flat = b.op("Conv", &[&flat, &w, &bias]);
    let tokens = b.op("Transpose", &[&flat]);
    b.with(AttributeProto::int_list("perm", &[0, 2, 1]));
    check(b.classified(&tokens), "patch linear linear head");
}

/// A weight behind a Cast, the sum of a weight and a product of two thin ones (a low-rank adapter), a normalized weight, and
/// what a small network makes of constants.
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
    let (table, first, bias, second) =
        (b.weight(&[12, 2]), b.weight(&[12, 2]), b.weight(&[12]), b.weight(&[12, 12]));
    let hidden = b.op("Gemm", &[&table, &first, &bias]);
    b.with(AttributeProto::int("transB", 1));
    let hidden = b.op("Relu", &[&hidden]);
    let network = b.op("Gemm", &[&hidden, &second]);
    let x = b.op("MatMul", &[&x, &network]);
    check(b.classified(&x), "patch linear linear linear linear head");
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

/// A linear layer across the heads before the Softmax, and one after it (`CaiT`).
#[test]
fn heads_may_talk_before_and_after_the_softmax() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let [q, k, v] = b.projected(&tokens);
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let scores = b.op("MatMul", &[&q, &k]);
    let talk = |b: &mut Builder, x: &str| {
        let last = b.transpose(x, &[0, 2, 3, 1]);
        let mixed = b.linear(&last, [2, 2]);
        b.transpose(&mixed, &[0, 3, 1, 2])
    };
    let scores = talk(&mut b, &scores);
    let p = b.softmax(&scores, -1);
    let p = talk(&mut b, &p);
    let mixed = b.op("MatMul", &[&p, &v]);
    let sites = check_products(b.projects(&mixed), "patch q k v scores linear linear values proj head");
    // What is mixed of probabilities is none.
    assert_eq!(sites, [("MatMul", 2), ("MatMul", 2)]);
}

/// `relu(Q)·(relu(K)ᵀ·V)`: products of two activations without a Softmax (`EfficientViT`).
#[test]
fn linear_attention_has_no_softmax() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let [q, k, v] = b.projected(&tokens);
    let [q, k] = [q, k].map(|x| b.op("Relu", &[&x]));
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let kv = b.op("MatMul", &[&k, &v]);
    let mixed = b.op("MatMul", &[&q, &kv]);
    let sites = check_products(b.projects(&mixed), "patch q k v product product linear head");
    assert_eq!(sites, [("MatMul", 2), ("MatMul", 2)]);
}

/// Attention between channels whose rows are normalized (`XCiT`): Q and K keep their names.
#[test]
fn attention_may_be_between_normalized_channels() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let qkv = b.linear(&tokens, [12, 36]);
    let qkv = b.reshape(&qkv, &[0, 4, 3, 2, 6]);
    let qkv = b.transpose(&qkv, &[2, 0, 3, 4, 1]);
    let [q, k, v] = [0, 1, 2].map(|part| {
        let part = b.int(part);
        let part = b.op("Gather", &[&qkv, &part]);
        b.with(AttributeProto::int("axis", 0));
        part
    });
    let [q, k] = [q, k].map(|x| {
        let norm = b.op("ReduceL2", &[&x]);
        b.with(AttributeProto::int_list("axes", &[-1]));
        b.op("Div", &[&x, &norm])
    });
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.softmax(&scores, -1);
    let mixed = b.op("MatMul", &[&p, &v]);
    let tokens = b.transpose(&mixed, &[0, 3, 1, 2]);
    let tokens = b.reshape(&tokens, &[0, 4, 12]);
    let sites = check_products(b.classified(&tokens), "patch qkv scores values head");
    assert_eq!(sites, [("MatMul", 2), ("TwinSoftmaxMatMul", 2)]);
}

/// `V·Pᵀ` (EfficientViT-M, SHViT): the values are the lhs, the probabilities the rhs.
#[test]
fn values_may_be_the_lhs() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let [q, k, v] = b.projected(&tokens);
    let [k, v] = [k, v].map(|x| b.transpose(&x, &[0, 1, 3, 2]));
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.softmax(&scores, -1);
    let p = b.transpose(&p, &[0, 1, 3, 2]);
    let mixed = b.op("MatMul", &[&v, &p]);
    let mixed = b.transpose(&mixed, &[0, 1, 3, 2]);
    let sites = check_products(b.projects(&mixed), "patch q k v scores values proj head");
    assert_eq!(sites, [("MatMul", 2), ("MatMul", 2)]);
}

/// `Q·(softmax(K)ᵀ·V)`, the Softmax over the tokens (`CoaT`): its transposed output is the lhs, in two ranges.
#[test]
fn a_softmax_may_run_over_tokens_and_be_transposed() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let [q, k, v] = b.projected(&tokens);
    let k = b.softmax(&k, 2);
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let kv = b.op("MatMul", &[&k, &v]);
    let mixed = b.op("MatMul", &[&q, &kv]);
    let sites = check_products(b.projects(&mixed), "patch q k v values product linear head");
    assert_eq!(sites, [("TwinSoftmaxMatMul", 2), ("MatMul", 2)]);
}

/// `[N, heads, windows, tokens, width]` (Hiera): no constant is as long as the windows of one image size are many.
#[test]
fn windows_in_the_place_of_heads_share_one_scale() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let qkv = b.linear(&tokens, [12, 36]);
    let qkv = b.reshape(&qkv, &[0, 2, 2, 3, 2, 6]);
    let qkv = b.transpose(&qkv, &[3, 0, 4, 2, 1, 5]);
    let [q, k, v] = [0, 1, 2].map(|part| {
        let part = b.int(part);
        let part = b.op("Gather", &[&qkv, &part]);
        b.with(AttributeProto::int("axis", 0));
        part
    });
    let k = b.transpose(&k, &[0, 1, 2, 4, 3]);
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.softmax(&scores, -1);
    let mixed = b.op("MatMul", &[&p, &v]);
    let mixed = b.transpose(&mixed, &[0, 3, 2, 1, 4]);
    let tokens = b.reshape(&mixed, &[0, 4, 12]);
    let sites = check_products(b.classified(&tokens), "patch qkv scores values head");
    assert_eq!(sites, [("MatMul", 1), ("TwinSoftmaxMatMul", 1)]);
}

/// `g·softmax(·) + (1 − g)·softmax(·)`, one of content and one of position (`ConViT`). It is known to be at most 1 if it is
/// divided by its sum.
#[test]
fn probabilities_may_be_a_gated_sum() {
    for (normalized, op) in [(false, "MatMul"), (true, "TwinSoftmaxMatMul")] {
        let mut b = Builder::default();
        let tokens = b.tokens();
        let [q, k, v] = b.projected(&tokens);
        let k = b.transpose(&k, &[0, 1, 3, 2]);
        let scores = b.op("MatMul", &[&q, &k]);
        let content = b.softmax(&scores, -1);
        let position = b.weight(&[1, 2, 4, 4]);
        let position = b.softmax(&position, -1);
        let gate = b.weight(&[1, 2, 1, 1]);
        let gate = b.op("Sigmoid", &[&gate]);
        let one = b.float(1.0);
        let rest = b.op("Sub", &[&one, &gate]);
        let [content, position] = [(content, rest), (position, gate)].map(|(p, by)| b.op("Mul", &[&p, &by]));
        let mut p = b.op("Add", &[&content, &position]);
        if normalized {
            let last = b.ints(&[-1]);
            let sum = b.op("ReduceSum", &[&p, &last]);
            p = b.op("Div", &[&p, &sum]);
        }
        let mixed = b.op("MatMul", &[&p, &v]);
        let sites = check_products(b.projects(&mixed), "patch q k v scores values proj head");
        assert_eq!(sites, [("MatMul", 2), (op, 2)]);
    }
}

/// One head of keys and values for all heads of queries.
#[test]
fn operands_may_broadcast() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let q = b.linear(&tokens, [12, 12]);
    let q = b.in_heads(&q);
    let [k, v] = [0; 2].map(|_| {
        let x = b.linear(&tokens, [12, 6]);
        b.reshape(&x, &[0, 1, 4, 6])
    });
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.softmax(&scores, -1);
    let mixed = b.op("MatMul", &[&p, &v]);
    let sites = check_products(b.projects(&mixed), "patch q k v scores values proj head");
    assert_eq!(sites, [("MatMul", 1), ("TwinSoftmaxMatMul", 1)]);
}

/// Rotary positions turn halves of Q and K against each other, after a norm.
#[test]
fn roles_pass_norms_gates_and_rotary_embeddings() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let qkv = b.linear(&tokens, [12, 36]);
    let sizes = b.ints(&[12, 12, 12]);
    b.split(&qkv, &sizes, ["q", "k", "v"]);
    let [q, k] = ["q", "k"].map(|x| {
        let x = b.in_heads(x);
        let square = b.op("Mul", &[&x, &x]);
        let mean = b.op("ReduceMean", &[&square]);
        b.with(AttributeProto::int_list("axes", &[-1]));
        let root = b.op("Sqrt", &[&mean]);
        let x = b.op("Div", &[&x, &root]);
        let [zero, half, end, last] = [0, 3, 6, -1].map(|at| b.ints(&[at]));
        let first = b.op("Slice", &[&x, &zero, &half, &last]);
        let second = b.op("Slice", &[&x, &half, &end, &last]);
        let second = b.op("Neg", &[&second]);
        let turned = b.op("Concat", &[&second, &first]);
        b.with(AttributeProto::int("axis", -1));
        let [cosines, sines] = [0; 2].map(|_| b.weight(&[4, 6]));
        let [x, turned] = [(x, cosines), (turned, sines)].map(|(x, table)| b.op("Mul", &[&x, &table]));
        b.op("Add", &[&x, &turned])
    });
    let v = b.in_heads("v");
    let gate = b.linear(&tokens, [12, 12]);
    let gate = b.in_heads(&gate);
    let gate = b.op("Sigmoid", &[&gate]);
    let v = b.op("Mul", &[&v, &gate]);
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.softmax(&scores, -1);
    let mixed = b.op("MatMul", &[&p, &v]);
    check_products(b.projects(&mixed), "patch qkv linear scores values proj head");
}

/// Columns that alternate between Q, K and V are no thirds.
#[test]
fn a_projection_whose_columns_alternate_is_plain() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let qkv = b.linear(&tokens, [12, 36]);
    let qkv = b.reshape(&qkv, &[0, 4, 2, 3, 6]);
    let qkv = b.transpose(&qkv, &[3, 0, 2, 1, 4]);
    let [q, k, v] = [0, 1, 2].map(|part| {
        let part = b.int(part);
        let part = b.op("Gather", &[&qkv, &part]);
        b.with(AttributeProto::int("axis", 0));
        part
    });
    let k = b.transpose(&k, &[0, 1, 3, 2]);
    let scores = b.op("MatMul", &[&q, &k]);
    let p = b.softmax(&scores, -1);
    let mixed = b.op("MatMul", &[&p, &v]);
    check_products(b.projects(&mixed), "patch linear scores values proj head");
}

/// What a product of two matrices without more axes makes has two axes, too.
#[test]
fn a_product_of_two_axes_keeps_its_axes() {
    let mut b = Builder::default();
    let tokens = b.tokens();
    let pooled = b.op("ReduceMean", &[&tokens]);
    b.with(AttributeProto::int_list("axes", &[1]));
    b.with(AttributeProto::int("keepdims", 0));
    let flat = b.reshape(&tokens, &[-1, 12]);
    let turned = b.transpose(&flat, &[1, 0]);
    let scores = b.op("MatMul", &[&pooled, &turned]);
    let p = b.softmax(&scores, -1);
    let mixed = b.op("MatMul", &[&p, &flat]);
    let tokens = b.reshape(&mixed, &[-1, 1, 12]);
    let sites = check_products(b.classified(&tokens), "patch scores values head");
    assert_eq!(sites, [("MatMul", 1), ("MatMul", 1)]);
}
