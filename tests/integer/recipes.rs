//! Files of one quantized site, node by node as the emitted file has them, with random weights.

use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::proto::tensor_proto::DataType;
use onnx_ptq4vit::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, tensor,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{file_of, image_value, opset, value};

/// Channels of the input, which are the heads of attention; and its height and width.
pub(crate) const HEADS: usize = 3;
pub(crate) const SIZE: usize = 6;
/// Columns of the weights.
pub(crate) const COLUMNS: usize = 10;

/// The file with channels 4 and 1 of `x` added in float to the product that it makes.
pub(crate) fn with_outliers(mut model: ModelProto) -> ModelProto {
    let graph = model.graph.as_mut().unwrap();
    graph.node.last_mut().unwrap().output = vec!["inliers".into()];
    let gather = node("Gather", "gather", ["x", "channels"], ["gathered"]);
    graph.node.extend([
        gather.with(AttributeProto::int("axis", -1)),
        node("MatMul", "outliers", ["gathered", "rows"], ["outliers"]),
        node("Add", "y", ["inliers", "outliers"], ["y"]),
    ]);
    let rows: Vec<f32> = (0..2 * COLUMNS).map(|i| i as f32 * 0.37 - 2.0).collect();
    graph.initializer.extend([
        tensor::from_i64("channels", &[2], &[4, 1]),
        tensor::from_f32("rows", &[2, COLUMNS], &rows),
    ]);
    model
}

/// A file under construction.
pub(crate) struct File {
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) constants: Vec<TensorProto>,
    pub(crate) functions: Vec<FunctionProto>,
    rng: ChaCha8Rng,
}

impl File {
    pub(crate) fn new(seed: u64) -> Self {
        Self { nodes: vec![], constants: vec![], functions: vec![], rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The model from the images `x[N, 3, 6, 6]` to `y`.
    pub(crate) fn model(self) -> ModelProto {
        let [heads, size] = [HEADS, SIZE].map(|size| Some(size as i64));
        let graph = GraphProto {
            node: self.nodes,
            initializer: self.constants,
            input: vec![image_value("x", [None, heads, size, size])],
            output: vec![value("y")],
            ..Default::default()
        };
        ModelProto {
            opset_import: vec![opset("", 17), opset("ai.ptq4vit", 1)],
            functions: self.functions,
            ..file_of(graph)
        }
    }

    /// A node named as its output.
    pub(crate) fn op(&mut self, op_type: &str, inputs: &[&str], output: &str) -> String {
        self.nodes.push(node(op_type, output, inputs.iter().copied(), [output]));
        output.into()
    }

    pub(crate) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        self.constants.push(tensor::from_f32(name, dims, values));
        name.into()
    }

    pub(crate) fn scalar(&mut self, name: &str, value: f32) -> String {
        self.floats(name, &[], &[value])
    }

    pub(crate) fn heads(&mut self, name: &str, values: &[f32]) -> String {
        self.floats(name, &[values.len(), 1, 1], values)
    }

    /// Zeros of `data_type` that go with a scale of `dims`.
    pub(crate) fn zeros(&mut self, name: &str, dims: &[usize], data_type: DataType) -> String {
        let mut zeros = tensor::from_i8(name, dims, &vec![0; dims.iter().product()]);
        zeros.data_type = Some(data_type.into());
        self.constants.push(zeros);
        name.into()
    }

    /// `QuantizeLinear` and `DequantizeLinear`.
    pub(crate) fn pair(&mut self, x: &str, prefix: &str, scale: f32, data_type: DataType) -> String {
        let scale = self.scalar(&format!("{prefix}_scale"), scale);
        let zero = self.zeros(&format!("{prefix}_zero_point"), &[], data_type);
        let q = self.op("QuantizeLinear", &[x, &scale, &zero], &format!("{prefix}_q"));
        self.op("DequantizeLinear", &[&q, &scale, &zero], &format!("{prefix}_dq"))
    }

    pub(crate) fn clip(&mut self, x: &str, prefix: &str, min: f32, max: f32) -> String {
        let min = self.scalar(&format!("{prefix}_min"), min);
        let max = self.scalar(&format!("{prefix}_max"), max);
        self.op("Clip", &[x, &min, &max], &format!("{prefix}_clip"))
    }

    fn min(&mut self, x: &str, prefix: &str, max: f32) -> String {
        let max = self.scalar(&format!("{prefix}_max"), max);
        self.op("Min", &[x, &max], &format!("{prefix}_clip"))
    }

    /// `[BOUND] → Div → pair of scale 1`.
    fn per_head(&mut self, x: &str, prefix: &str, scales: &[f32], k: u32) -> String {
        let half = half(k);
        let mut x = x.to_string();
        if k < 8 {
            let low = self
                .heads(&format!("{prefix}_head_min"), &scales.iter().map(|s| -half * s).collect::<Vec<_>>());
            let high = self.heads(
                &format!("{prefix}_head_max"),
                &scales.iter().map(|s| (half - 1.0) * s).collect::<Vec<_>>(),
            );
            x = self.op("Max", &[&x, &low], &format!("{prefix}_floor"));
            x = self.op("Min", &[&x, &high], &format!("{prefix}_clip"));
        }
        let divisor = self.heads(&format!("{prefix}_head_scale"), scales);
        let u = self.op("Div", &[&x, &divisor], &format!("{prefix}_u"));
        self.pair(&u, prefix, 1.0, DataType::Int8)
    }

    /// Codes of `k` bits, scales and zero points of a weight `[6, 10]`.
    pub(crate) fn weight(&mut self, k: u32, per_column: bool) -> [String; 3] {
        let half = 1 << (k - 1);
        let mut codes: Vec<i8> =
            (0..SIZE * COLUMNS).map(|_| self.rng.random_range(-half..half) as i8).collect();
        codes[0] = -half as i8;
        self.constants.push(tensor::from_i8("p_w_q", &[SIZE, COLUMNS], &codes));
        let dims: &[usize] = if per_column { &[COLUMNS] } else { &[] };
        let scales: Vec<f32> = (0..dims.iter().product()).map(|i| 0.01 + i as f32 * 0.003).collect();
        let scale = self.floats("p_w_scale", dims, &scales);
        let zero = self.zeros("p_w_zero_point", dims, DataType::Int8);
        ["p_w_q".into(), scale, zero]
    }

    /// A `DequantizeLinear` of the weight.
    pub(crate) fn dequantized(
        &mut self,
        [codes, scale, zero]: &[String; 3],
        per_column: bool,
        output: &str,
    ) -> String {
        let made = self.op("DequantizeLinear", &[codes, scale, zero], output);
        if per_column {
            let last = self.nodes.last_mut().unwrap();
            last.attribute.push(AttributeProto::int("axis", 1));
        }
        made
    }

    /// Recipe A.
    pub(crate) fn linear(mut self, k: u32, per_column: bool) -> ModelProto {
        let delta = 1.3 / half(k);
        let x =
            if k < 8 { self.clip("x", "p_a", -half(k) * delta, (half(k) - 1.0) * delta) } else { "x".into() };
        let a = self.pair(&x, "p_a", delta, DataType::Int8);
        let weight = self.weight(k, per_column);
        let w = self.dequantized(&weight, per_column, "p_w_dq");
        self.op("MatMul", &[&a, &w], "y");
        self.model()
    }

    /// Recipe E, with a scale for each of 5 channels and patches of 2 × 3.
    pub(crate) fn conv(mut self) -> ModelProto {
        let a = self.pair("x", "p_a", 1.3 / half(8), DataType::Int8);
        let codes: Vec<i8> = (0..5 * HEADS * 6).map(|_| self.rng.random_range(-128..=127)).collect();
        self.constants.push(tensor::from_i8("p_w_q", &[5, HEADS, 2, 3], &codes));
        let scale = self.floats("p_w_scale", &[5], &[0.01, 0.02, 0.03, 0.04, 0.05]);
        let zero = self.zeros("p_w_zero_point", &[5], DataType::Int8);
        let w = self.op("DequantizeLinear", &["p_w_q", &scale, &zero], "p_w_dq");
        self.nodes.last_mut().unwrap().attribute.push(AttributeProto::int("axis", 0));
        let bias = self.floats("bias", &[5], &[0.5, -0.5, 0.0, 1.0, 2.0]);
        self.op("Conv", &[&a, &w, &bias], "y");
        self.nodes.last_mut().unwrap().attribute.push(AttributeProto::int_list("strides", &[2, 3]));
        self.model()
    }

    /// Recipe B, with `B = xᵀ`.
    pub(crate) fn scores(mut self, k: u32) -> ModelProto {
        let (s_a, s_b) = (scales(1.1 / half(k)), scales(0.9 / half(k)));
        self.transposed("x", "k_t");
        let a = self.per_head("x", "p_a", &s_a, k);
        let b = self.per_head("k_t", "p_b", &s_b, k);
        let product = self.op("MatMul", &[&a, &b], "p_mm");
        let scale = self.heads("p_head_scale", &s_a.iter().zip(&s_b).map(|(a, b)| a * b).collect::<Vec<_>>());
        self.op("Mul", &[&product, &scale], "y");
        self.model()
    }

    /// Recipe C.
    pub(crate) fn twin_gelu(mut self, k: u32, shift: u8, function: bool, per_column: bool) -> ModelProto {
        let (q, coarse) = (half(k) - 1.0, 0.83 / half(k));
        let fine = coarse / 2f32.powi(shift.into());
        let weight = self.weight(k, per_column);
        if function {
            let inputs: Vec<&str> = ["x"].into_iter().chain(weight.iter().map(String::as_str)).collect();
            self.op("TwinGeluMatMul", &inputs, "y");
            self.of_our_domain(&[
                AttributeProto::int("bits", k.into()),
                AttributeProto::int("shift", shift.into()),
                AttributeProto::float("fine", fine),
                AttributeProto::float("coarse", coarse),
                AttributeProto::float("fine_min", -q * fine),
                AttributeProto::float("coarse_max", q * coarse),
            ]);
            return self.model();
        }
        let zero = self.scalar("p_n_max", 0.0);
        let n_min = self.scalar("p_n_min", -q * fine);
        let n = self.op("Clip", &["x", &n_min, &zero], "p_n_clip");
        let n = self.pair(&n, "p_n", fine, DataType::Int8);
        let p = self.clip("x", "p_p", 0.0, q * coarse);
        let p = self.pair(&p, "p_p", coarse, DataType::Uint8);
        let w0 = self.dequantized(&weight, per_column, "p_w_dq0");
        let w1 = self.dequantized(&weight, per_column, "p_w_dq1");
        let n = self.op("MatMul", &[&n, &w0], "p_n_mm");
        let p = self.op("MatMul", &[&p, &w1], "p_p_mm");
        self.op("Add", &[&n, &p], "y");
        self.model()
    }

    /// Recipe D, with `P = x` and `V = (x − ½)ᵀ`. The heads have the steps `step`, `step + 1` and `step + 2`.
    #[expect(clippy::large_stack_arrays, reason = "ten attributes, once")]
    pub(crate) fn twin_softmax(mut self, k: u32, step: i32, function: bool) -> ModelProto {
        let (q, coarse) = (half(k) - 1.0, 1.0 / half(k));
        let v_scale = scales(0.6 / half(k));
        let steps: Vec<i32> = (step..step + HEADS as i32).collect();
        let r1_end: Vec<f32> = steps.iter().map(|j| 2f32.powi(-j - 1)).collect();
        let middle = self.scalar("middle", 0.5);
        self.op("Sub", &["x", &middle], "centred");
        self.transposed("centred", "v");
        if function {
            let fine: Vec<f32> = r1_end.iter().map(|end| end / half(k)).collect();
            let by = |factor: f32| v_scale.iter().map(|s| factor * s).collect::<Vec<_>>();
            self.op("TwinSoftmaxMatMul", &["x", "v"], "y");
            self.of_our_domain(&[
                AttributeProto::int("bits", k.into()),
                AttributeProto::float_list("fine", &fine),
                AttributeProto::int_list(
                    "shift",
                    &steps.iter().map(|j| i64::from(j + 1)).collect::<Vec<_>>(),
                ),
                AttributeProto::float_list("r1_end", &r1_end),
                AttributeProto::float("coarse", coarse),
                AttributeProto::float("coarse_max", q * coarse),
                AttributeProto::int("v_bits", k.into()),
                AttributeProto::float_list("v_scale", &v_scale),
                AttributeProto::float_list("v_min", &by(-half(k))),
                AttributeProto::float_list("v_max", &by(half(k) - 1.0)),
            ]);
            return self.model();
        }
        let r1 = self.heads("p_head_r1_end", &r1_end);
        let u = self.op("Div", &["x", &r1], "p_u");
        let hi_u = self.op("ThresholdedRelu", &[&u], "p_hi_u");
        let alpha = AttributeProto::float("alpha", f32::from_bits(0x3F7F_FFFF));
        self.nodes.last_mut().unwrap().attribute.push(alpha);
        let lo = self.op("Sub", &[&u, &hi_u], "p_lo");
        let lo = self.min(&lo, "p_lo", q * coarse);
        let lo = self.pair(&lo, "p_lo", coarse, DataType::Uint8);
        let hi = self.op("Mul", &[&hi_u, &r1], "p_hi");
        let hi = self.min(&hi, "p_hi", q * coarse);
        let hi = self.pair(&hi, "p_hi", coarse, DataType::Uint8);
        let v0 = self.per_head("v", "p_v", &v_scale, k);
        let v1 = self.op("DequantizeLinear", &["p_v_q", "p_v_scale", "p_v_zero_point"], "p_v_dq1");
        let lo = self.op("MatMul", &[&lo, &v0], "p_lo_mm");
        let hi = self.op("MatMul", &[&hi, &v1], "p_hi_mm");
        let lo = self.op("Mul", &[&lo, &r1], "p_lo_out");
        let sum = self.op("Add", &[&lo, &hi], "p_sum");
        self.op("Mul", &[&sum, "p_v_head_scale"], "y");
        self.model()
    }

    fn transposed(&mut self, x: &str, output: &str) {
        self.op("Transpose", &[x], output);
        self.nodes.last_mut().unwrap().attribute.push(AttributeProto::int_list("perm", &[0, 1, 3, 2]));
    }

    /// Moves the last node to our domain, with a function (whose body nothing here reads).
    fn of_our_domain(&mut self, attributes: &[AttributeProto]) {
        let last = self.nodes.last_mut().unwrap();
        last.domain = Some("ai.ptq4vit".into());
        last.attribute.extend(attributes.iter().cloned());
        let inputs = last.input.iter().enumerate().map(|(i, _)| format!("in{i}")).collect();
        self.functions.push(FunctionProto {
            name: last.op_type.clone(),
            domain: Some("ai.ptq4vit".into()),
            input: inputs,
            output: vec!["out".into()],
            attribute: attributes.iter().map(|a| a.name().to_string()).collect(),
            node: vec![node("Identity", "body", ["in0"], ["out"])],
            opset_import: vec![opset("", 17)],
            ..Default::default()
        });
    }
}

/// `2^(k−1)`.
pub(crate) fn half(k: u32) -> f32 {
    2f32.powi(k as i32 - 1)
}

/// Three heads' scales.
fn scales(delta: f32) -> Vec<f32> {
    [1.0, 0.7, 1.21].map(|factor| factor * delta).to_vec()
}
