//! The twin matmuls (PTQ4ViT, Eqs. 4 and 5): `A` is split into its two ranges, each is a Q/DQ pair of its own, and the
//! two products over one `B` are added.
//!
//! The non-negative ranges are UINT8 with zero point 0: the same codes as in INT8, and exact on CPUs whose 8-bit products
//! saturate when INT8 is shifted by 128.

use super::TwinForm;
use super::body::{Body, FunctionBody};
use super::writer::{Unnamed, Writer};
use crate::onnx::proto::OperatorSetIdProto;
use crate::onnx::{AttributeProto, DOMAIN, Edits, FunctionProto};
use crate::quant::{Bits, Quantizer, Scale};

const GELU: &str = "TwinGeluMatMul";
const SOFTMAX: &str = "TwinSoftmaxMatMul";

/// The float just below 1: `x > it` is `x ≥ 1`.
const BELOW_ONE: f32 = f32::from_bits(0x3F7F_FFFF);

/// Which functions a file needs.
#[derive(Default)]
pub(super) struct Functions {
    pub(super) gelu: bool,
    pub(super) softmax: bool,
    /// Some V has less than 8 bits, and so bounds.
    pub(super) bounded_v: bool,
}

impl Functions {
    /// Adds the definitions to the model.
    pub(super) fn define(&self, opset: i64, edits: &mut Edits) {
        let mut add = |name: &str, inputs: &[&str], body: FunctionBody, unused: &[&str]| {
            let attribute = body
                .attributes
                .into_iter()
                .chain(unused.iter().map(std::string::ToString::to_string))
                .collect();
            edits.add_function(FunctionProto {
                name: Some(name.into()),
                domain: Some(DOMAIN.into()),
                input: inputs.iter().map(std::string::ToString::to_string).collect(),
                output: vec!["O".into()],
                attribute,
                node: body.nodes,
                opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
                ..Default::default()
            });
        };
        if self.softmax {
            let mut body = FunctionBody::default();
            let last = TwinSoftmax::default().recipe(&mut body, "P", "V", self.bounded_v, TwinForm::Function);
            body.nodes.push(last.named("O", "O"));
            let unbounded: &[&str] = if self.bounded_v { &[] } else { &["v_min", "v_max"] };
            let unused = [&["bits", "fine", "shift", "v_bits"], unbounded].concat();
            add(SOFTMAX, &["P", "V"], body, &unused);
        }
        if self.gelu {
            let mut body = FunctionBody::default();
            let weight = ["W", "w_scale", "w_zero_point"];
            let last = TwinGelu::default().recipe(&mut body, "X", weight, Some(1), TwinForm::Function);
            body.nodes.push(last.named("O", "O"));
            add(GELU, &["X", "W", "w_scale", "w_zero_point"], body, &["bits", "shift"]);
        }
        if self.softmax || self.gelu {
            edits.import_opset(DOMAIN, 1);
        }
    }
}

/// The numbers of a post-GELU twin.
#[derive(Default)]
pub(super) struct TwinGelu {
    bits: u8,
    shift: u8,
    fine: f32,
    coarse: f32,
    /// The ends of the two ranges: `−(2^(k−1)−1)·fine` and `(2^(k−1)−1)·coarse`.
    fine_min: f32,
    coarse_max: f32,
}

impl TwinGelu {
    /// # Panics
    /// If the quantizer is another one.
    pub(super) fn new(quantizer: Quantizer) -> Self {
        let Quantizer::TwinGelu { scale, bits } = quantizer else { panic!("expected a post-GELU twin") };
        let (fine, coarse) = (scale.fine.get(), scale.coarse());
        let largest = (bits.half() - 1) as f32;
        Self {
            bits: bits.get(),
            shift: scale.shift,
            fine,
            coarse,
            fine_min: -largest * fine,
            coarse_max: largest * coarse,
        }
    }

    /// `twin(x)·W`, where `weight` is (codes `[K, N]`, scale, zero point).
    pub(super) fn write(
        &self,
        w: &mut Writer,
        form: TwinForm,
        x: &str,
        weight: [&str; 3],
        axis: Option<i64>,
    ) -> Unnamed {
        if form != TwinForm::Function {
            return self.recipe(w, x, weight, axis, form);
        }
        let [codes, scale, zero_point] = weight;
        let twin = Unnamed::new(GELU, &[x, codes, scale, zero_point]).in_domain(DOMAIN);
        let attributes = [
            AttributeProto::int("bits", self.bits.into()),
            AttributeProto::float("fine", self.fine),
            AttributeProto::int("shift", self.shift.into()),
            AttributeProto::float("coarse", self.coarse),
            AttributeProto::float("fine_min", self.fine_min),
            AttributeProto::float("coarse_max", self.coarse_max),
        ];
        attributes.into_iter().fold(twin, Unnamed::with)
    }

    /// R1 = the negative values by `fine`, R2 = the others by `coarse`.
    fn recipe(
        &self,
        body: &mut dyn Body,
        x: &str,
        weight: [&str; 3],
        axis: Option<i64>,
        form: TwinForm,
    ) -> Unnamed {
        let zero = body.literal("zero", 0.0);
        let fine = body.float("fine", self.fine);
        let coarse = body.float("coarse", self.coarse);
        let fine_min = body.float("fine_min", self.fine_min);
        let coarse_max = body.float("coarse_max", self.coarse_max);
        let n = body.node("Clip", &[x, &fine_min, &zero], "n_clip", vec![]);
        let n = qdq(body, &n, "n", &fine, false);
        let p = body.node("Clip", &[x, &zero, &coarse_max], "p_clip", vec![]);
        let p = qdq(body, &p, "p", &coarse, form != TwinForm::Int8);
        let axis = || axis.map(|axis| AttributeProto::int("axis", axis)).into_iter().collect();
        let w0 = body.node("DequantizeLinear", &weight, "w_dq0", axis());
        let w1 = body.node("DequantizeLinear", &weight, "w_dq1", axis());
        let n = body.node("MatMul", &[&n, &w0], "n_mm", vec![]);
        let p = body.node("MatMul", &[&p, &w1], "p_mm", vec![]);
        Unnamed::new("Add", &[&n, &p])
    }
}

/// The numbers of a post-softmax twin, by head where the scales are.
#[derive(Default)]
pub(super) struct TwinSoftmax {
    bits: u8,
    fine: Vec<f32>,
    shift: Vec<i64>,
    /// `2^(k−1)·fine`, where R1 ends.
    r1_end: Vec<f32>,
    coarse: f32,
    coarse_max: f32,
    v_bits: u8,
    v_scale: Vec<f32>,
    v_min: Vec<f32>,
    v_max: Vec<f32>,
}

impl TwinSoftmax {
    /// # Panics
    /// If a quantizer is another one.
    pub(super) fn new(quantizers: &[Quantizer], v: &[Scale], v_bits: Bits) -> Self {
        let mut twin = Self { v_bits: v_bits.get(), ..Self::default() };
        for quantizer in quantizers {
            let Quantizer::TwinSoftmax { scale, bits } = quantizer else {
                panic!("expected a post-softmax twin")
            };
            twin.bits = bits.get();
            twin.fine.push(scale.fine.get());
            twin.shift.push(scale.shift.into());
            twin.r1_end.push(bits.half() as f32 * scale.fine.get());
            twin.coarse = scale.coarse();
            twin.coarse_max = (bits.half() - 1) as f32 * twin.coarse;
        }
        twin.v_scale = v.iter().map(|s| s.get()).collect();
        twin.v_min = v.iter().map(|s| -v_bits.half() as f32 * s.get()).collect();
        twin.v_max = v.iter().map(|s| (v_bits.half() - 1) as f32 * s.get()).collect();
        twin
    }

    /// `twin(p)·v`.
    pub(super) fn write(&self, w: &mut Writer, form: TwinForm, p: &str, v: &str) -> Unnamed {
        if form != TwinForm::Function {
            return self.recipe(w, p, v, self.v_bits < 8, form);
        }
        let twin = Unnamed::new(SOFTMAX, &[p, v]).in_domain(DOMAIN);
        let attributes = vec![
            AttributeProto::int("bits", self.bits.into()),
            AttributeProto::float_list("fine", &self.fine),
            AttributeProto::int_list("shift", &self.shift),
            AttributeProto::float_list("r1_end", &self.r1_end),
            AttributeProto::float("coarse", self.coarse),
            AttributeProto::float("coarse_max", self.coarse_max),
            AttributeProto::int("v_bits", self.v_bits.into()),
            AttributeProto::float_list("v_scale", &self.v_scale),
            AttributeProto::float_list("v_min", &self.v_min),
            AttributeProto::float_list("v_max", &self.v_max),
        ];
        attributes.into_iter().fold(twin, Unnamed::with)
    }

    /// In units of `r1_end` (a power of two per head) R1 is `[0, 1)`, whose scale is then `coarse` for every head.
    fn recipe(&self, body: &mut dyn Body, p: &str, v: &str, bounded_v: bool, form: TwinForm) -> Unnamed {
        let r1_end = body.per_head("r1_end", &self.r1_end);
        let v_scale = body.per_head("v_scale", &self.v_scale);
        let coarse = body.float("coarse", self.coarse);
        let coarse_max = body.float("coarse_max", self.coarse_max);
        let one = body.literal("one", 1.0);

        let unsigned = form != TwinForm::Int8;
        let mut p = p.to_string();
        if !unsigned {
            // UINT8 saturates at zero by itself.
            let zero = body.literal("zero", 0.0);
            p = body.node("Max", &[&p, &zero], "p_floor", vec![]);
        }
        let u = body.node("Div", &[&p, &r1_end], "u", vec![]);
        let alpha = vec![AttributeProto::float("alpha", BELOW_ONE)];
        let hi_u = body.node("ThresholdedRelu", &[&u], "hi_u", alpha);
        let lo = body.node("Sub", &[&u, &hi_u], "lo", vec![]);
        let lo = body.node("Min", &[&lo, &coarse_max], "lo_clip", vec![]);
        let lo = qdq(body, &lo, "lo", &coarse, unsigned);
        let hi = body.node("Mul", &[&hi_u, &r1_end], "hi", vec![]);
        let hi = body.node("Min", &[&hi, &coarse_max], "hi_clip", vec![]);
        let hi = qdq(body, &hi, "hi", &coarse, unsigned);

        let mut v = v.to_string();
        if bounded_v {
            let v_min = body.per_head("v_min", &self.v_min);
            let v_max = body.per_head("v_max", &self.v_max);
            let floor = body.node("Max", &[&v, &v_min], "v_floor", vec![]);
            v = body.node("Min", &[&floor, &v_max], "v_clip", vec![]);
        }
        let v = body.node("Div", &[&v, &v_scale], "v_u", vec![]);
        let zero_point = body.zero_point("v", false);
        let v = body.node("QuantizeLinear", &[&v, &one, &zero_point], "v_q", vec![]);
        let v0 = body.node("DequantizeLinear", &[&v, &one, &zero_point], "v_dq0", vec![]);
        let v1 = body.node("DequantizeLinear", &[&v, &one, &zero_point], "v_dq1", vec![]);

        let lo = body.node("MatMul", &[&lo, &v0], "lo_mm", vec![]);
        let hi = body.node("MatMul", &[&hi, &v1], "hi_mm", vec![]);
        let lo = body.node("Mul", &[&lo, &r1_end], "lo_out", vec![]);
        let sum = body.node("Add", &[&lo, &hi], "sum", vec![]);
        Unnamed::new("Mul", &[&sum, &v_scale])
    }
}

/// A Q/DQ pair with a zero point of its own.
fn qdq(body: &mut dyn Body, x: &str, name: &str, scale: &str, unsigned: bool) -> String {
    let zero_point = body.zero_point(name, unsigned);
    let q = body.node("QuantizeLinear", &[x, scale, &zero_point], &format!("{name}_q"), vec![]);
    body.node("DequantizeLinear", &[&q, scale, &zero_point], &format!("{name}_dq"), vec![])
}
