//! An example of every rule, at points where it is smooth.

use tract_core::internal::*;
use tract_core::ops::array::{
    CumSum, Gather, GatherElements, GatherNd, MultiBroadcastTo, Pad, PadMode, ScatterElements, ScatterNd,
    ScatterReduction, Slice, StridedSlice, Tile, Topk, Trilu, TypedConcat,
};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::change_axes::AxisOp;
use tract_core::ops::cnn::conv::{Conv, KernelFormat};
use tract_core::ops::cnn::{Deconv, MaxPool, PaddingSpec, PoolSpec, SumPool};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::identity::Identity;
use tract_core::ops::logic::Iff;
use tract_core::ops::math;
use tract_core::ops::nn::{
    DataFormat, GeluApproximate, GridSample, HardSwish, InterpolationMode, LeakyRelu, PaddingMode, Reduce,
    Reducer, Sigmoid, Silu, Softmax, SoftmaxKind,
};
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, InferenceModelExt};

pub(super) struct Case {
    pub(super) op: Box<dyn TypedOp>,
    pub(super) inputs: Vec<Tensor>,
    /// The inputs whose gradients are checked.
    pub(super) differentiable: Vec<usize>,
}

/// Values in 0.4…1.6, all different, so that no kink or pole is near.
pub(super) fn values(shape: &[usize], seed: usize) -> Tensor {
    let len: usize = shape.iter().product();
    let data: Vec<f32> =
        (0..len).map(|i| 0.4 + ((i * 37 + seed * 61 + 11) % 97) as f32 / 97.0 * 1.2).collect();
    Tensor::from_shape(shape, &data).unwrap()
}

pub(super) fn case(op: impl Into<Box<dyn TypedOp>>, shapes: &[&[usize]]) -> Case {
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| values(s, i)).collect();
    Case { op: op.into(), differentiable: (0..inputs.len()).collect(), inputs }
}

pub(super) fn unary(op: impl tract_core::ops::element_wise::ElementWiseMiniOp) -> Case {
    case(ElementWiseOp(Box::new(op), None), &[&[2, 3]])
}

/// An op with kinks, or that not all of 0.4…1.6 can enter.
fn unary_at(op: impl tract_core::ops::element_wise::ElementWiseMiniOp, x: &[f32]) -> Case {
    Case { inputs: vec![tensor1(x)], ..unary(op) }
}

fn binary(op: impl tract_core::ops::binary::BinMiniOp) -> Case {
    case(TypedBinOp(Box::new(op), None), &[&[2, 3, 2], &[1, 3, 1]])
}

/// `x` among others that carry no gradient.
fn with_constants(op: impl Into<Box<dyn TypedOp>>, x: &[usize], constants: Vec<Tensor>) -> Case {
    let mut case = case(op, &[x]);
    case.inputs.extend(constants);
    case
}

fn einsum(expression: &str) -> EinSum {
    EinSum::new(expression.parse().unwrap(), f32::datum_type())
}

/// A window of 3 × 2 in steps of 2 and 1.
fn window(padding: PaddingSpec, dilation: usize, from: usize, to: usize) -> PoolSpec {
    let (dilations, strides) = (Some(tvec!(dilation, 1)), Some(tvec!(2, 1)));
    PoolSpec::new(DataFormat::NCHW, tvec!(3, 2), padding, dilations, strides, from, to)
}

/// With the weight (output channels, input channels of a group, 3, 2) and a bias as constants.
fn conv(padding: PaddingSpec, group: usize, dilation: usize) -> Case {
    let op = Conv::new(window(padding, dilation, 4, 8), KernelFormat::OIHW, group, None);
    with_constants(op, &[2, 4, 7, 5], vec![values(&[8, 4 / group, 3, 2], 5), values(&[8], 6)])
}

/// In one dimension or three.
fn conv_of_rank(rank: usize) -> Case {
    let pads = PaddingSpec::Explicit(tvec!(1; rank), tvec!(0; rank));
    let spec = PoolSpec::new(DataFormat::NCHW, tvec!(2; rank), pads, None, Some(tvec!(2; rank)), 2, 3);
    let w = values(&[&[3, 2][..], &vec![2; rank]].concat(), 5);
    let x = [&[1, 2][..], &vec![4; rank]].concat();
    with_constants(Conv::new(spec, KernelFormat::OIHW, 1, None), &x, vec![w, values(&[3], 6)])
}

fn deconv(padding: PaddingSpec, group: usize, dilation: usize) -> Case {
    let spec = window(padding, dilation, 4, 6);
    let op = Deconv::new(spec, KernelFormat::OIHW, tvec!(1, 0), group);
    with_constants(op, &[2, 4, 4, 3], vec![values(&[6, 4 / group, 3, 2], 5), values(&[6], 6)])
}

/// An average over what the window has of the image, or of the padded image.
fn average_pool(padding: PaddingSpec, count_include_pad: bool) -> Case {
    let pool_spec = window(padding, 1, 3, 3);
    case(SumPool { pool_spec, count_include_pad, normalize: true }, &[&[2, 3, 6, 5]])
}

/// The op that tract-onnx makes of an ONNX operator (opset 13), where it cannot be named. All inputs but the first are
/// constants; one without a name is left out.
fn onnx(op_type: &str, attributes: &[(&str, &str)], x: &[usize], others: &[(&str, Tensor)]) -> Case {
    let tensor =
        pb::type_proto::Tensor { elem_type: pb::tensor_proto::DataType::Float as i32, ..Default::default() };
    let r#type =
        pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() };
    let named = |name: &str| pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(r#type.clone()),
        ..Default::default()
    };
    let initializer = |(name, value): &(&str, Tensor)| pb::TensorProto {
        name: (*name).into(),
        dims: value.shape().iter().map(|&d| d as i64).collect(),
        data_type: pb::tensor_proto::DataType::Float as i32,
        float_data: value.to_plain_array_view::<f32>().unwrap().iter().copied().collect(),
        ..Default::default()
    };
    let attribute = |(name, value): &(&str, &str)| pb::AttributeProto {
        name: (*name).into(),
        r#type: pb::attribute_proto::AttributeType::String as i32,
        s: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let node = pb::NodeProto {
        op_type: op_type.into(),
        name: "op".into(),
        input: ["x"].iter().chain(others.iter().map(|(name, _)| name)).map(|&name| name.into()).collect(),
        output: vec!["y".into()],
        attribute: attributes.iter().map(attribute).collect(),
        ..Default::default()
    };
    let graph = pb::GraphProto {
        node: vec![node],
        input: vec![named("x")],
        output: vec![named("y")],
        initializer: others.iter().filter(|(name, _)| !name.is_empty()).map(initializer).collect(),
        ..Default::default()
    };
    let model = pb::ModelProto {
        opset_import: vec![pb::OperatorSetIdProto { version: 13, ..Default::default() }],
        graph: Some(graph),
        ..Default::default()
    };
    let model = tract_onnx::onnx().model_for_proto_model(&model).unwrap();
    let model = model.with_input_fact(0, f32::fact(x).into()).unwrap().into_typed().unwrap();
    let node = model.nodes.iter().find(|node| node.name == "op").unwrap();
    let constant = |input: &OutletId| model.outlet_fact(*input).unwrap().konst.clone().unwrap().into_tensor();
    with_constants(node.op.clone(), x, node.inputs[1..].iter().map(constant).collect())
}

/// To 5 × 3 of 4 × 6.
fn resize(mode: &str, coordinates: &str) -> Case {
    let attributes = [("mode", mode), ("coordinate_transformation_mode", coordinates)];
    let scales = tensor1(&[1f32, 1.0, 1.25, 0.5]);
    onnx("Resize", &attributes, &[2, 3, 4, 6], &[("", tensor1(&[0f32])), ("scales", scales)])
}

/// An example of every rule.
pub(super) fn cases() -> Vec<Case> {
    [products(), windows(), elementwise(), reductions(), layout()].into_iter().flatten().collect()
}

fn products() -> Vec<Case> {
    vec![
        case(einsum("amk,kn->amn"), &[&[2, 3, 4], &[4, 5]]),
        case(einsum("mk,nk->mn"), &[&[3, 4], &[5, 4]]),
        case(einsum("abmk,abkn->abmn"), &[&[2, 2, 3, 4], &[2, 2, 4, 2]]),
        case(einsum("abmk,kn->abmn"), &[&[2, 2, 3, 4], &[4, 2]]),
        case(einsum("bmk,bkn->nbm"), &[&[2, 3, 4], &[1, 4, 2]]),
        case(einsum("amk,kn->an"), &[&[2, 3, 4], &[4, 5]]),
        case(einsum("abc->b"), &[&[2, 3, 4]]),
        case(einsum("ak,kn,an->a"), &[&[2, 3], &[3, 4], &[2, 4]]),
        case(einsum("abk,akc,dc->bda"), &[&[2, 3, 4], &[1, 4, 2], &[5, 2]]),
        case(einsum("a,b,c,ad->cb"), &[&[2], &[3], &[4], &[2, 3]]),
    ]
}

fn windows() -> Vec<Case> {
    let explicit = || PaddingSpec::Explicit(tvec!(1, 1), tvec!(2, 0));
    let onnx_pool = |ceil| PaddingSpec::ExplicitOnnxPool(tvec!(1, 0), tvec!(0, 1), ceil);
    let max_pool = |padding| {
        case(MaxPool { pool_spec: window(padding, 1, 3, 3), with_index_outputs: None }, &[&[2, 3, 6, 5]])
    };
    vec![
        conv(PaddingSpec::Valid, 1, 1),
        conv(explicit(), 2, 1),
        conv(explicit(), 4, 1),
        conv(PaddingSpec::SameUpper, 1, 2),
        conv_of_rank(1),
        conv_of_rank(3),
        deconv(PaddingSpec::Valid, 1, 1),
        deconv(explicit(), 2, 1),
        deconv(PaddingSpec::Valid, 1, 2),
        average_pool(PaddingSpec::Valid, false),
        average_pool(onnx_pool(true), true),
        average_pool(onnx_pool(true), false),
        average_pool(PaddingSpec::SameUpper, false),
        max_pool(PaddingSpec::Valid),
        max_pool(onnx_pool(false)),
        resize("nearest", "half_pixel"),
        resize("nearest", "asymmetric"),
        resize("linear", "half_pixel"),
        resize("linear", "align_corners"),
        resize("cubic", "half_pixel"),
        grid_sample(InterpolationMode::Nearest, PaddingMode::Zeros, false),
        grid_sample(InterpolationMode::Nearest, PaddingMode::Reflection, true),
        grid_sample(InterpolationMode::Bilinear, PaddingMode::Zeros, false),
        grid_sample(InterpolationMode::Bilinear, PaddingMode::Zeros, true),
        grid_sample(InterpolationMode::Bilinear, PaddingMode::Border, false),
        grid_sample(InterpolationMode::Bilinear, PaddingMode::Border, true),
        grid_sample(InterpolationMode::Bilinear, PaddingMode::Reflection, false),
        grid_sample(InterpolationMode::Bilinear, PaddingMode::Reflection, true),
    ]
}

/// At points within the image and without, on all sides.
fn grid_sample(mode: InterpolationMode, padding_mode: PaddingMode, align_corners: bool) -> Case {
    let points = [-0.63, 0.21, 0.55, -0.32, 0.07, 0.9, -1.35, 0.4, 1.62, -2.9, 0.33, 3.4];
    let mut case = case(GridSample { mode, padding_mode, align_corners }, &[&[2, 3, 4, 5], &[2, 1, 3, 2]]);
    case.inputs[1] = Tensor::from_shape(&[2, 1, 3, 2], &points.map(|x: f64| x as f32)).unwrap();
    case
}

fn elementwise() -> Vec<Case> {
    let steps = [-1.7, -0.3, 0.3, 0.7, 1.2, 2.8];
    let mut iff = case(Iff, &[&[2, 3], &[2, 3], &[1, 3]]);
    iff.inputs[0] = Tensor::from_shape(&[2, 3], &[true, false, false, true, true, false]).unwrap();
    iff.differentiable.remove(0);
    vec![
        binary(math::Add),
        binary(math::Sub),
        binary(math::Mul),
        binary(math::Div),
        binary(math::Rem),
        binary(math::Pow),
        binary(math::Min),
        binary(math::Max),
        unary(math::Neg {}),
        unary(math::Abs {}),
        unary(math::Exp {}),
        unary(math::Ln {}),
        unary(math::Square {}),
        unary(math::Sqrt {}),
        unary(math::Rsqrt {}),
        unary(math::Recip {}),
        unary(math::Erf {}),
        unary(GeluApproximate { fast_impl: false }),
        unary(math::Sin {}),
        unary(math::Cos {}),
        unary_at(math::Tan {}, &[-0.8, 0.1, 0.9]),
        unary_at(math::Asin {}, &[-0.6, 0.1, 0.5]),
        unary_at(math::Acos {}, &[-0.6, 0.1, 0.5]),
        unary(math::Atan {}),
        unary(math::Sinh {}),
        unary(math::Cosh {}),
        unary(math::Asinh {}),
        unary_at(math::Acosh {}, &[1.5, 2.0, 3.0]),
        unary_at(math::Atanh {}, &[-0.5, 0.1, 0.4]),
        unary(math::Tanh {}),
        unary(Sigmoid {}),
        unary_at(Silu {}, &steps),
        unary_at(HardSwish {}, &[-3.5, -2.0, -0.3, 1.4, 2.9, 3.2]),
        unary_at(LeakyRelu { alpha: 0.1 }, &steps),
        unary_at(math::Floor {}, &steps),
        unary_at(math::Ceil {}, &steps),
        unary_at(math::Round {}, &steps),
        unary_at(math::RoundHalfToEven {}, &steps),
        unary_at(math::Sign {}, &steps),
        case(Identity, &[&[2, 3]]),
        onnx("Dropout", &[], &[2, 3], &[]),
        case(Cast { to: f32::datum_type() }, &[&[2, 3]]),
        iff,
    ]
}

fn reductions() -> Vec<Case> {
    let reduce = |axes: &[usize], reducer| case(Reduce::new(axes.into(), reducer), &[&[2, 3, 2]]);
    let product = |x: &[f32]| Case {
        inputs: vec![Tensor::from_shape(&[2, 3], x).unwrap()],
        ..case(Reduce::new(tvec!(1), Reducer::Prod), &[&[2, 3]])
    };
    let cumsum = |exclusive, reverse| case(CumSum { axis: 1, exclusive, reverse }, &[&[2, 4, 2]]);
    vec![
        case(Softmax::new(tvec!(1), None, SoftmaxKind::Softmax), &[&[2, 5, 2]]),
        reduce(&[1], Reducer::Sum),
        reduce(&[0, 2], Reducer::MeanOfSquares),
        reduce(&[0, 2], Reducer::Max),
        reduce(&[1], Reducer::Min),
        product(&[0.5, 1.5, 0.8, 1.2, 0.7, 1.1]),
        product(&[0.5, 0.0, 0.8, 1.2, 0.7, 1.1]),
        product(&[0.5, 0.0, 0.0, 0.0, 0.7, 1.1]),
        cumsum(false, false),
        cumsum(true, false),
        cumsum(false, true),
        cumsum(true, true),
    ]
}

fn layout() -> Vec<Case> {
    let dims = |d: &[usize]| -> TVec<TDim> { d.iter().map(tract_core::prelude::ToDim::to_dim).collect() };
    let to = |shape: &[usize]| MultiBroadcastTo { shape: ShapeFact::from_dims(dims(shape)) };
    let strided = StridedSlice {
        optional_axes_input: Some(3),
        optional_steps_input: Some(4),
        begin_mask: 0,
        end_mask: 0,
        shrink_axis_mask: 0,
    };
    let i64s = |x: &[i64]| tensor1(x);
    let table = |shape: &[usize], x: &[i64]| Tensor::from_shape(shape, x).unwrap();
    let pad = |mode| case(Pad { pads: vec![(1, 0), (2, 3)], mode }, &[&[2, 4]]);
    let scatter = |op: Box<dyn TypedOp>, indices: Tensor, updates: &[usize]| Case {
        op,
        inputs: vec![values(&[3, 4], 0), indices, values(updates, 1)],
        differentiable: vec![0, 2],
    };
    let scatter_elements = |reduction| {
        scatter(ScatterElements::new(1, reduction).into(), table(&[2, 2], &[3, 0, 1, -2]), &[2, 2])
    };
    let scatter_nd = |reduction| scatter(ScatterNd::new(reduction).into(), table(&[2, 1], &[2, 0]), &[2, 4]);
    let top_k = |largest| {
        with_constants(Topk { axis: 1, largest, fallback_k: 2.into() }, &[2, 5, 2], vec![tensor0(2i64)])
    };
    vec![
        case(AxisOp::Reshape(1, dims(&[6]), dims(&[2, 3])), &[&[2, 6, 2]]),
        case(AxisOp::Add(1), &[&[2, 3]]),
        case(AxisOp::Rm(1), &[&[2, 1, 3]]),
        case(AxisOp::Move(0, 2), &[&[2, 3, 4]]),
        case(AxisOp::Move(2, 0), &[&[2, 3, 4]]),
        case(TypedConcat { axis: 1 }, &[&[2, 3], &[2, 1]]),
        case(Pad { pads: vec![(1, 0), (0, 2)], mode: PadMode::Constant(rctensor0(5f32)) }, &[&[2, 3]]),
        pad(PadMode::Reflect),
        pad(PadMode::Edge),
        case(Slice::new(1, 1, 3), &[&[2, 4]]),
        with_constants(strided, &[5, 3], vec![i64s(&[4]), i64s(&[0]), i64s(&[0]), i64s(&[-2])]),
        with_constants(Gather::new(0), &[4, 2], vec![i64s(&[2, 0, 2])]),
        case(Tile { multipliers: dims(&[2, 1, 3]) }, &[&[2, 3, 2]]),
        with_constants(Trilu { upper: true }, &[2, 3, 4], vec![tensor0(1i64)]),
        with_constants(Trilu { upper: false }, &[3, 4], vec![tensor0(-1i64)]),
        with_constants(GatherElements::new(1), &[2, 3], vec![table(&[2, 4], &[0, 2, -1, 0, 1, 1, 0, 2])]),
        with_constants(GatherNd::new(0), &[3, 2, 2], vec![table(&[3, 2], &[2, 0, 0, 1, 2, 0])]),
        with_constants(GatherNd::new(1), &[2, 3, 2], vec![table(&[2, 1], &[2, 0])]),
        scatter_elements(ScatterReduction::None),
        scatter_elements(ScatterReduction::Add),
        scatter_elements(ScatterReduction::Mul),
        scatter_elements(ScatterReduction::Min),
        scatter_elements(ScatterReduction::Max),
        scatter_nd(ScatterReduction::None),
        scatter_nd(ScatterReduction::Add),
        scatter_nd(ScatterReduction::Mul),
        scatter_nd(ScatterReduction::Min),
        scatter_nd(ScatterReduction::Max),
        top_k(true),
        top_k(false),
        case(to(&[2, 3, 4]), &[&[3, 1]]),
    ]
}
