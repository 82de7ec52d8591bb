//! What the sites of a file look like. `docs/emitted-file.md` has the same recipes.

use crate::pattern::{Pattern, constant, op, per_head, scalar, var};

/// `DequantizeLinear(QuantizeLinear(x))`, whose nodes are captured.
pub(super) fn quantized(x: Pattern, quantize: &'static str, dequantize: &'static str) -> Pattern {
    op("DequantizeLinear", [op("QuantizeLinear", [x]).node(quantize)]).node(dequantize)
}

/// `Clip(x, min, max)`.
pub(super) fn clip() -> Pattern {
    op("Clip", [var("x"), scalar("min"), scalar("max")])
}

/// `x/Δ_h`, a scale per head.
pub(super) fn divided() -> Pattern {
    op("Div", [var("x"), per_head("scales")])
}

/// `Min(Max(x, low_h), high_h)`.
pub(super) fn bounded() -> Pattern {
    op("Min", [op("Max", [var("x"), per_head("low")]), per_head("high")])
}

/// `Max(x, 0)`.
pub(super) fn floored() -> Pattern {
    op("Max", [var("x"), scalar("zero")])
}

/// `A·B`.
pub(super) fn product() -> Pattern {
    op("MatMul", [var("a"), var("b")])
}

/// `(A/Δ_A · B/Δ_B) · Δ_A·Δ_B`, the scales per head.
pub(super) fn heads() -> Pattern {
    op("Mul", [product(), per_head("scales")])
}

/// `lo·V·r1 + hi·V`, times the scales that divide V, where `r1` is the end of R1, `u = P/r1`, `hi` is P where it is at
/// least `r1`, and `lo` is u elsewhere.
pub(super) fn twin_softmax() -> Pattern {
    const PARTED: &str =
        "its ranges are not parted by Div, ThresholdedRelu, Sub, Mul and Min with the end of R1";
    let r1_end = || per_head("r1_end");
    let u = || op("Div", [var("p"), r1_end()]);
    let hi_u = || op("ThresholdedRelu", [u()]).node("threshold");
    let lo = op("Min", [op("Sub", [u(), hi_u()]), scalar("max")]);
    let hi = op("Min", [op("Mul", [hi_u(), r1_end()]), scalar("max")]);

    let below = op("MatMul", [quantized(var("lo"), "lo_q", "lo_dq"), var("v")]);
    let above = op("MatMul", [quantized(var("hi"), "hi_q", "hi_dq"), var("same_v")]);
    let sum = op("Add", [op("Mul", [below, r1_end()]), above]);
    op("Mul", [sum, per_head("v_scale")]).with("lo", lo, PARTED).with("hi", hi, PARTED)
}

/// `n·W + p·W`, where `n` and `p` are the negative and the other values of x.
pub(super) fn twin_gelu() -> Pattern {
    const CLIP: &str = "a range has no Clip between constants";
    // Two ranges of one twin share the codes of their weight; two layers that are added do not.
    let product = |x, weight| op("MatMul", [x, op("DequantizeLinear", [var("codes")]).node(weight)]);
    let n = product(quantized(var("n"), "n_q", "n_dq"), "w0");
    let p = product(quantized(var("p"), "p_q", "p_dq"), "w1");
    op("Add", [n, p]).with("n", op("Clip", [var("x"), scalar("n_min"), scalar("n_max")]), CLIP).with(
        "p",
        op("Clip", [var("same_x"), scalar("p_min"), scalar("p_max")]),
        CLIP,
    )
}

/// `inliers(x) + x[…, channels]·rows`.
pub(super) fn outliers() -> Pattern {
    let gathered = op("Gather", [var("x"), var("channels")]).node("gather");
    op("Add", [var("inliers"), op("MatMul", [gathered, constant("rows")])])
}

/// `Squeeze(A·W + b[1, 1, N], axes)`: a classifier with its bias.
pub(super) fn classifier() -> Pattern {
    let product = op("MatMul", [var("a"), var("b")]).node("product");
    op("Squeeze", [op("Add", [product, constant("bias")]), var("axes")])
}

/// A Conv whose result is rounded to codes.
pub(super) fn rounded_conv() -> Pattern {
    quantized(op("Conv", []).node("conv").sole(), "q", "dq")
}
