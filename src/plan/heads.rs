//! The channels of attention: which columns of projections they are, where nothing but layout, constant factors and the
//! bias lie between. Such channels may have other ranges: a projection makes them, and the other operand takes them back.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayD};

use super::axes::RESHAPES;
use super::roles::{Columns, Follower};
use super::{RhsOperand, Site, SiteKind, WeightLayout};
use crate::onnx::{NodeProto, Use, tensor};

/// How many nodes may lie between a projection and a product.
const MOST_NODES: usize = 64;

/// Where the channels of one operand come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Index of the site that makes them.
    pub projection: usize,
    /// The column of the projection of each channel, `[heads, channels of a head]`.
    pub columns: Array2<usize>,
    /// What the projection, with its bias, is multiplied by.
    pub factor: f32,
}

/// The scores `Q·Kᵀ`, `[…, heads, tokens, tokens]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoresLink {
    /// Index of the site.
    pub site: usize,
    /// Of `Q`.
    pub query: Source,
    /// Of `K`.
    pub key: Source,
    /// Whether a Softmax over the keys follows, for which the sum of each row counts not.
    pub softmax: bool,
}

/// The weighted values `P·V`, `[…, heads, tokens, channels]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ValuesLink {
    /// Index of the site.
    pub site: usize,
    /// Of `V`.
    pub value: Source,
    /// Index of the site behind it.
    pub proj: usize,
    /// The channel of the lhs of `proj` of each channel, `[heads, channels of a head]`.
    pub rows: Array2<usize>,
    /// Whether the weights of each row, which a Softmax makes, sum to one.
    pub softmax: bool,
}

/// The attention of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heads {
    /// In the order of the graph.
    pub scores: Vec<ScoresLink>,
    /// In the order of the graph.
    pub values: Vec<ValuesLink>,
}

/// Finds the attention among `sites`.
pub(super) fn find(follower: &Follower, sites: &[Site]) -> Heads {
    let graph = follower.graph;
    let mut sources: BTreeMap<Use, Source> = BTreeMap::new();
    for (index, site) in sites.iter().enumerate().filter(|(_, site)| is_linear(site)) {
        sources.extend(operands(follower, index, site).unwrap_or_default());
    }
    let mut heads = Heads::default();
    for (index, site) in sites.iter().enumerate() {
        if is_linear(site) {
            continue;
        }
        let of = |input: usize| sources.get(&Use { node: site.node, input }).cloned();
        let role = |input: usize| follower.roles.get(&Use { node: site.node, input });
        match (site.kind, of(0), of(1)) {
            (SiteKind::Scores, Some(query), Some(key)) if role(1) == Some(&SiteKind::K) => {
                let softmax = is_for_softmax(follower, &site.output);
                heads.scores.push(ScoresLink { site: index, query, key, softmax });
            }
            (SiteKind::Values, None, Some(value)) => {
                if let Some((proj, rows)) = behind(follower, sites, site, value.columns.dim()) {
                    let softmax =
                        graph.producer(&site.a).is_some_and(|id| is_over_last(follower, graph.node(id)));
                    heads.values.push(ValuesLink { site: index, value, proj, rows, softmax });
                }
            }
            _ => {}
        }
    }
    heads
}

fn is_linear(site: &Site) -> bool {
    matches!(&site.b, RhsOperand::Weight { layout: WeightLayout::Kn | WeightLayout::Nk, .. })
}

/// The operands of products that a projection makes; `None` unless all of it goes into such.
fn operands(follower: &Follower, projection: usize, site: &Site) -> Option<Vec<(Use, Source)>> {
    let graph = follower.graph;
    let dims = follower.axes.dims(&site.output)?;
    let columns = Columns::of(&dims, dims.len().checked_sub(1)?);
    let mut open: Vec<(&str, Columns, f32)> = vec![(&site.output, columns, 1.0)];
    let mut found = Vec::new();
    for _ in 0..MOST_NODES {
        let Some((value, columns, factor)) = open.pop() else { return Some(found) };
        if graph.is_output(value) {
            return None;
        }
        for user in graph.consumers(value) {
            let node = graph.node(user.node);
            if follower.roles.contains_key(user) {
                let is_key = user.input == 1 && follower.roles.get(user) == Some(&SiteKind::K);
                found.push((*user, Source { projection, columns: by_head(&columns, is_key)?, factor }));
                continue;
            }
            let other = || graph.constant(node.operand(1 - user.input.min(1))?);
            let scalar = || match tensor::f32s(other()?).ok()?[..] {
                [factor] if factor.is_normal() => Some(factor),
                _ => None,
            };
            match node.op_type() {
                "Shape" | "Size" => {}
                // The bias, which is the site's.
                "Add" if value == site.output && site.bias.is_some() => {
                    open.push((&node.output[0], columns.clone(), factor));
                }
                "Mul" => open.push((&node.output[0], columns.clone(), factor * scalar()?)),
                "Div" if user.input == 0 => open.push((&node.output[0], columns.clone(), factor / scalar()?)),
                _ => {
                    for (index, output) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty())
                    {
                        open.push((output, follower.laid_out(node, index, output, &columns)?, factor));
                    }
                }
            }
        }
    }
    None
}

/// `[heads, channels]` of an operand of a product, the channels along its last axis, or along the one before if `rows`.
fn by_head(columns: &Columns, rows: bool) -> Option<Array2<usize>> {
    let rank = columns.axes.len();
    let of_axis = |(axis, factors): (usize, &Vec<(usize, bool)>)| {
        let channels = factors.iter().filter(|(length, channel)| *channel && *length > 1);
        channels.map(|(length, _)| (axis, *length)).collect::<Vec<_>>()
    };
    let along = rank.checked_sub(1 + usize::from(rows))?;
    let shape = match columns.axes.iter().enumerate().flat_map(of_axis).collect::<Vec<_>>()[..] {
        [(axis, length)] if axis == along => (1, length),
        [(before, heads), (axis, length)] if axis == along && before + 3 == rank => (heads, length),
        _ => return None,
    };
    Array2::from_shape_vec(shape, columns.columns.iter().copied().collect()).ok()
}

/// The linear layer that takes all that `site` makes, and the channel of its lhs of each head's channels.
fn behind(
    follower: &Follower,
    sites: &[Site],
    site: &Site,
    (heads, channels): (usize, usize),
) -> Option<(usize, Array2<usize>)> {
    let graph = follower.graph;
    let dims = follower.axes.dims(&site.output)?;
    let rank = dims.len();
    let by_axis = |axis: usize| axis + 1 == rank || heads > 1 && axis + 3 == rank;
    let fits = dims[rank - 1] == channels && (heads == 1 || dims.get(rank.checked_sub(3)?) == Some(&heads));
    let axes = dims.iter().enumerate().map(|(axis, &dim)| vec![(dim, by_axis(axis))]).collect();
    let shape = if heads > 1 { vec![heads, channels] } else { vec![channels] };
    let own = ArrayD::from_shape_vec(shape, (0..heads * channels).collect()).ok()?;
    let mut columns = Columns { axes, columns: own };
    let mut value = site.output.as_str();
    for _ in 0..MOST_NODES {
        let mut users = graph.consumers(value).iter().filter(|user| !graph.node(user.node).is_op("Shape"));
        let (Some(user), None) = (users.next(), users.next()) else { return None };
        if graph.is_output(value) || user.input != 0 || !fits {
            return None;
        }
        if let Some(proj) = sites.iter().position(|other| other.node == user.node) {
            let last = columns.axes.len().checked_sub(1)?;
            let all = columns.axes[..last].iter().flatten().all(|(length, channel)| !channel || *length == 1);
            if !is_linear(&sites[proj]) || !all || columns.columns.len() != heads * channels {
                return None;
            }
            // From the channel of each row to the row of each channel.
            let mut rows = Array2::zeros((heads, channels));
            for (row, &channel) in columns.columns.iter().enumerate() {
                rows[[channel / channels, channel % channels]] = row;
            }
            return Some((proj, rows));
        }
        let node = graph.node(user.node);
        columns = follower.laid_out(node, 0, &node.output[0], &columns)?;
        value = &node.output[0];
    }
    None
}

/// Whether a Softmax over the last axis takes `scores`, with nothing before it that minds a number added to a whole row.
fn is_for_softmax(follower: &Follower, scores: &str) -> bool {
    let graph = follower.graph;
    let last = |value: &str| follower.axes.dims(value).and_then(|dims| dims.last().copied());
    let mut value = scores;
    for _ in 0..MOST_NODES {
        let mut users = graph.consumers(value).iter().filter(|user| !graph.node(user.node).is_op("Shape"));
        let (Some(user), None) = (users.next(), users.next()) else { return false };
        let node = graph.node(user.node);
        let other = node.operand(1 - user.input.min(1)).and_then(|other| graph.constant(other));
        let is_scalar = other.is_some_and(|other| tensor::len(other) == 1);
        let kept = match node.op_type() {
            "Softmax" => return is_over_last(follower, node),
            "Add" => true,
            "Mul" => is_scalar,
            "Div" => is_scalar && user.input == 0,
            op => RESHAPES.contains(&op),
        };
        if graph.is_output(value) || !kept || last(value) != last(&node.output[0]) {
            return false;
        }
        value = &node.output[0];
    }
    false
}

/// Whether a node is a Softmax over the last axis.
fn is_over_last(follower: &Follower, node: &NodeProto) -> bool {
    let rank = node.operand(0).and_then(|x| follower.axes.dims(x)).map_or(0, |dims| dims.len() as i64);
    let axis = node.attr_int("axis").unwrap_or(-1);
    node.is_op("Softmax") && (axis == -1 || axis + 1 == rank)
}
