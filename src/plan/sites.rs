//! From the nodes of a graph to its sites.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::attention::{self, PRODUCTS, Products};
use super::axes::{Axes, RESHAPES};
use super::exclude::named;
use super::heads::{self, Heads};
use super::range::is_probability;
use super::roles::Follower;
use super::{
    Activation, FloatNode, LhsSource, Plan, RhsOperand, ScaleOf, Site, SiteKind, WeightLayout, activations,
    bias, foreign, roles,
};
use crate::onnx::{Graph, NodeId, NodeProto, ValueInfoProto, tensor};
use crate::pattern::Pattern;
use crate::prepare::Prepared;
use crate::windows::Windows;
use crate::{Error, Result};

/// Finds the sites of a float model. `exclude` says which to leave in float: by a name, a pattern with `*` and `?`, `re:` and a
/// regular expression, `kind:` and a kind, or `blocks:` and a range of blocks.
///
/// An error if the model is quantized already, if `exclude` names no site, or if nothing is left to quantize.
pub fn plan(model: &Prepared, exclude: &[String]) -> Result<Plan> {
    let graph = model.graph();
    foreign::refuse(graph)?;
    if graph.opset() < 13 {
        return Err(Error::unsupported(
            format!("opset {}", graph.opset()),
            "per-channel DequantizeLinear needs opset 13; export the model again with opset 17",
        ));
    }
    let mut plan = Plan { sites: Vec::new(), float: Vec::new(), heads: Heads::default() };
    let finder = Finder::new(model);
    for (id, node) in graph
        .nodes()
        .filter(|(_, node)| node.is_op("ConvTranspose") || PRODUCTS.iter().any(|op| node.is_op(op)))
    {
        match behind_cut(model, id).map_or_else(|| finder.site(id, node), Err) {
            Ok(site) => plan.sites.push(site),
            Err(reason) => plan.float.push(finder.float_node(id, node, reason)),
        }
    }
    finder.name_places(&mut plan.sites);
    let excluded = named(&plan.sites, exclude)?;
    for (site, _) in plan.sites.iter().zip(&excluded).filter(|(_, excluded)| **excluded) {
        plan.float.push(finder.float_node(site.node, graph.node(site.node), "excluded on request".into()));
    }
    let mut keep = excluded.into_iter().map(|excluded| !excluded);
    plan.sites.retain(|_| keep.next() == Some(true));
    if plan.sites.is_empty() {
        let found: Vec<String> =
            plan.float.iter().map(|l| format!("{} `{}`: {}", l.op, l.node, l.reason)).collect();
        let found = if found.is_empty() { "it has no MatMul, Gemm or Conv".into() } else { found.join("; ") };
        return Err(Error::unsupported("no site to quantize in this model", found));
    }
    plan.heads = heads::find(&finder.follower(), &plan.sites);
    plan.float.extend(float_by_design(graph));
    plan.float.extend(cut_nodes(model));
    Ok(plan)
}

/// Why a node behind an operator that cannot be computed here stays in float: nothing can be recorded there.
fn behind_cut(model: &Prepared, id: NodeId) -> Option<String> {
    let first = model.graph().node(model.cut()?.before(id)?);
    Some(format!("it lies behind {}, which cannot be computed here", first.label()))
}

/// The nodes at which calibration ends.
fn cut_nodes(model: &Prepared) -> impl Iterator<Item = FloatNode> {
    model.cut().into_iter().flat_map(|cut| &cut.nodes).map(|(id, why)| {
        let node = model.graph().node(*id);
        let reason = format!("it cannot be computed here ({why}): calibration ends before it");
        FloatNode {
            node: node.name_or_output().into(),
            op: node.op_type().into(),
            reason,
            percent: None,
            product: None,
        }
    })
}

/// An error that names the first tensor with a NaN, or the first weight to quantize with an infinity. (Elsewhere an
/// infinity may be meant: attention masks have them.)
pub fn ensure_finite(model: &Prepared, plan: &Plan) -> Result<()> {
    let graph = model.graph();
    for site in &plan.sites {
        if let RhsOperand::Weight { value, .. } = &site.b
            && let Some(weight) = graph.constant(value)
            && let Some(at) = tensor::first_non_finite(weight)
        {
            return Err(Error::model(
                format!("weight `{value}` of site `{}`", site.name),
                format!("element {at} is not finite"),
            ));
        }
    }
    for initializer in &graph.model().graph().initializer {
        if tensor::first_non_finite(initializer).is_some()
            && let Some(at) = tensor::f32s(initializer)?.iter().position(|x| x.is_nan())
        {
            return Err(Error::model(
                format!("tensor `{}`", initializer.name()),
                format!("element {at} is NaN"),
            ));
        }
    }
    Ok(())
}

/// The values that depend on what the image shows; on its size alone does not count.
fn varying(graph: &Graph) -> HashSet<&str> {
    // The first input is the images; the others have one value in every run.
    let mut found: HashSet<&str> = graph.inputs().take(1).map(ValueInfoProto::name).collect();
    for (_, node) in graph.nodes().filter(|(_, node)| !node.is_op("Shape") && !node.is_op("Size")) {
        let values = node.input.iter().map(String::as_str).chain(crate::onnx::captures(node));
        if values.into_iter().any(|value| found.contains(value)) {
            found.extend(node.output.iter().map(String::as_str));
        }
    }
    found
}

fn weight(value: String, layout: WeightLayout) -> RhsOperand {
    RhsOperand::Weight { value, layout, scales: ScaleOf::Tensor }
}

/// What a Conv is as a site. By measurement, integer kernels of runtimes are slower than float ones where few channels go
/// into an output, or a group makes few.
fn conv(graph: &Graph, node: &NodeProto, weight: &[usize]) -> Result<(SiteKind, Windows), String> {
    const LEAST_CHANNELS: usize = 8;
    const LARGE_DEPTH: usize = 256;
    let windows = Windows::of(node, weight)?;
    if node.operand(2).is_some_and(|bias| graph.constant(bias).is_none()) {
        return Err("the bias of this Conv is computed, not constant".into());
    }
    if windows.are_patches() && !windows.are_pixels() {
        return Ok((SiteKind::Patch, windows));
    }
    let (inputs, outputs) = (weight[1], weight[0] / windows.groups());
    let depth = weight[1..].iter().product::<usize>();
    if inputs < LEAST_CHANNELS && depth < LARGE_DEPTH || windows.groups() > 1 && outputs < LEAST_CHANNELS {
        let of = match inputs {
            1 => "a depthwise Conv".into(),
            _ => format!("a Conv from {inputs} to {outputs} channels"),
        };
        return Err(format!("{of}: integer kernels are slower than float ones for it"));
    }
    // A kernel of one pixel is a linear layer over the channels.
    Ok((if windows.are_pixels() { SiteKind::Linear } else { SiteKind::Conv }, windows))
}

fn gemm_layout(node: &NodeProto) -> Result<WeightLayout, String> {
    let one = |name| node.attr_float(name).unwrap_or(1.0) == 1.0;
    if !one("alpha") || !one("beta") || node.attr_int("transA").unwrap_or(0) != 0 {
        return Err("a Gemm with alpha, beta or transA".into());
    }
    Ok(if node.attr_int("transB").unwrap_or(0) == 0 { WeightLayout::Kn } else { WeightLayout::Nk })
}

/// The patterns, and what is known of the whole graph.
struct Finder<'g> {
    graph: &'g Graph,
    axes: Axes<'g>,
    product: Pattern,
    /// The products without a weight.
    products: Products,
    /// The values that depend on what the image shows.
    varying: HashSet<&'g str>,
}

impl<'g> Finder<'g> {
    fn new(model: &'g Prepared) -> Self {
        let (graph, axes) = (model.graph(), Axes::new(model));
        let varying = varying(graph);
        let products = attention::products(graph, &axes, &varying);
        Self { graph, axes, product: attention::product(), products, varying }
    }

    /// The site at a product, its place not yet known; or why it stays in float.
    fn site(&self, id: NodeId, node: &NodeProto) -> Result<Site, String> {
        let graph = self.graph;
        let input = |i: usize| node.input.get(i).cloned().ok_or("an operand is missing");
        let (a, b) = (input(0)?, input(1)?);
        if !self.depends_on_image(node) {
            return Err("it does not depend on the image".into());
        }
        if !self.varying.contains(a.as_str()) {
            return Err("its lhs does not depend on the image".into());
        }
        let rank = graph.constant(&b).map(|w| tensor::shape(w).len());
        let (kind, b) = match (node.op_type(), rank) {
            ("Conv", Some(4)) => {
                let dims = graph.constant(&b).map(tensor::shape).unwrap_or_default();
                let (kind, windows) = conv(graph, node, &dims)?;
                (kind, weight(b, WeightLayout::Conv(windows)))
            }
            ("ConvTranspose", _) => return Err("no runtime has an integer ConvTranspose".into()),
            ("Gemm", Some(2)) => (SiteKind::Linear, weight(b, gemm_layout(node)?)),
            ("MatMul", Some(2)) => (SiteKind::Linear, self.linear(&a, b)),
            ("MatMul", None) if self.varying.contains(b.as_str()) => {
                let ranks = [&a, &b].map(|value| self.axes.dims(value).map(|dims| dims.len()));
                if ranks.iter().flatten().any(|&rank| rank < 2) {
                    return Err("one of its operands is a vector".into());
                }
                let kind = self.products.kinds.get(&id).copied().ok_or("it takes other than two operands")?;
                let by_head = [&a, &b].iter().any(|value| self.is_by_head(value));
                (kind, RhsOperand::Activation { value: b, by_head })
            }
            (op, None) => return Err(format!("the weight of this {op} is computed, not constant")),
            (op, Some(rank)) => return Err(format!("the weight of this {op} has {rank} axes")),
        };
        let a_kind = self.lhs_source(&a);
        let (name, output) = (node.name_or_output().to_string(), node.output[0].clone());
        let site = Site { name, node: id, kind, a, a_kind, b, output, bias: None };
        Ok(Site { bias: bias::find(graph, &site)?, ..site })
    }

    /// The weight of a `MatMul` whose lhs is `a`.
    fn linear(&self, a: &str, b: String) -> RhsOperand {
        let moved = self.graph.producer(a).map(|id| self.graph.node(id));
        let was_conv = moved
            .is_some_and(|node| node.is_op("Transpose") && node.attr_ints("perm") == Some(&[0, 2, 3, 1]));
        let scales = if was_conv { ScaleOf::Channel } else { ScaleOf::Tensor };
        RhsOperand::Weight { value: b, layout: WeightLayout::Kn, scales }
    }

    fn depends_on_image(&self, node: &NodeProto) -> bool {
        node.output.iter().any(|output| self.varying.contains(output.as_str()))
    }

    /// A product that stays in float. Its multiplications are counted if an image takes them.
    fn float_node(&self, id: NodeId, node: &NodeProto, reason: String) -> FloatNode {
        FloatNode {
            node: node.name_or_output().into(),
            op: node.op_type().into(),
            reason,
            percent: None,
            product: self.depends_on_image(node).then_some(id),
        }
    }

    /// Whether the axis before the matrices of an operand is one of heads: a factor of the channels of a projection.
    fn is_by_head(&self, operand: &str) -> bool {
        let rank = self.axes.dims(operand).map_or(0, |dims| dims.len());
        rank > 3 && self.axes.is_of_channels(operand, rank - 3)
    }

    /// The activation function that makes `value`, also through other axes, and the name of its argument.
    fn activation(&self, value: &str) -> Option<(Activation, String)> {
        let mut made = self.graph.resolve(value);
        while let Some(node) = self.graph.producer(made).map(|id| self.graph.node(id))
            && (node.is_op("Transpose") || RESHAPES.iter().any(|op| node.is_op(op)))
        {
            made = self.graph.resolve(node.operand(0)?);
        }
        activations::find(self.graph, made)
    }

    fn lhs_source(&self, value: &str) -> LhsSource {
        if is_probability(self.graph, value) {
            return LhsSource::Softmax;
        }
        let activation = self.activation(value);
        activation.map_or(LhsSource::Plain, |(function, _)| LhsSource::Activation(function))
    }

    /// Tells the linear layers apart by what they are connected to.
    fn name_places(&self, sites: &mut [Site]) {
        let at: HashMap<NodeId, usize> = sites.iter().enumerate().map(|(i, s)| (s.node, i)).collect();
        let mut places: Vec<(NodeId, SiteKind)> = Vec::new();
        for site in sites.iter().filter(|site| site.kind == SiteKind::Linear) {
            let behind = self.product_of(&site.a).and_then(|id| at.get(&id));
            if behind.is_some_and(|source| sites[*source].kind == SiteKind::Values) {
                places.push((site.node, SiteKind::Proj));
            }
            if let LhsSource::Activation(_) = site.a_kind {
                places.push((site.node, SiteKind::Fc2));
                let argument = self.activation(&site.a).map(|(_, x)| x);
                let fc1 = argument.and_then(|x| self.product_of(&x));
                places.extend(fc1.map(|id| (id, SiteKind::Fc1)));
            }
        }
        let linear = sites.iter().filter(|site| site.kind == SiteKind::Linear);
        places.extend(linear.filter_map(|site| Some((site.node, self.role(site)?))));
        places.extend(self.heads().into_iter().map(|id| (id, SiteKind::Head)));
        for (node, kind) in places {
            let Some(site) = at.get(&node).map(|&i| &mut sites[i]) else { continue };
            if site.kind == SiteKind::Linear {
                site.kind = kind;
            }
            if let RhsOperand::Weight { scales: scales @ ScaleOf::Tensor, .. } = &mut site.b
                && site.kind == SiteKind::Qkv
            {
                *scales = ScaleOf::Thirds;
            }
        }
    }

    fn follower(&self) -> Follower<'_, 'g> {
        let Self { graph, axes, varying, products, .. } = self;
        Follower { graph, axes, varying, roles: &products.roles }
    }

    /// What a linear layer projects to, if attention takes the whole of it.
    fn role(&self, site: &Site) -> Option<SiteKind> {
        let is_conv = matches!(site.b, RhsOperand::Weight { layout: WeightLayout::Conv(_), .. });
        let channels = if is_conv { 1 } else { self.axes.dims(&site.output)?.len().checked_sub(1)? };
        roles::of_projection(&self.follower(), &site.output, channels)
    }

    /// The classifiers: what makes an output of two axes, alone or as one of two whose sum is taken.
    fn heads(&self) -> Vec<NodeId> {
        let graph = self.graph;
        let flat = |output: &&str| graph.shape(output).is_none_or(|shape| shape.len() == 2);
        let outputs = graph.outputs().iter().map(ValueInfoProto::name).filter(flat);
        let of_output =
            |output: &str| match (self.product_of(output), attention::sum().matches(graph, output)) {
                (Some(product), _) => vec![product],
                (None, Some(sum)) => {
                    ["a", "b"].iter().filter_map(|term| self.product_of(sum.value(term))).collect()
                }
                (None, None) => vec![],
            };
        outputs.flat_map(of_output).collect()
    }

    /// The product that makes `value` through layout, scale and bias.
    fn product_of(&self, value: &str) -> Option<NodeId> {
        Some(self.product.matches(self.graph, value)?.node("product"))
    }
}

/// The float operators of the transformer, one line per kind.
fn float_by_design(graph: &Graph) -> Vec<FloatNode> {
    const BY_DESIGN: &[&str] = &["Softmax", "LayerNormalization", "Gelu", "Erf", "Tanh", "Sigmoid"];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, node) in graph.nodes() {
        if let Some(op) = BY_DESIGN.iter().find(|op| node.is_op(op)) {
            *counts.entry(op).or_default() += 1;
        }
    }
    let line = |(op, count): (&str, usize)| FloatNode {
        node: format!("{count} nodes"),
        op: op.into(),
        reason: "PTQ4ViT keeps it in float".into(),
        percent: None,
        product: None,
    };
    counts.into_iter().map(line).collect()
}
