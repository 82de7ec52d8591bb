//! What a command found out, for people (text) and for machines (JSON).

mod check;
mod inspect;
mod quantize;
mod table;

pub use check::CheckReport;
pub use inspect::{InspectReport, QuantizedSite, SiteRow};
pub use quantize::QuantizeReport;
pub use table::{Align, table};

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::{FloatNode, Plan};

/// How many sites of a kind there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The kind's name.
    pub kind: &'static str,
    /// How many.
    pub sites: usize,
}

/// The kinds of a plan, from the first layer to the last.
fn by_kind(plan: &Plan) -> Vec<KindCount> {
    let mut counts = BTreeMap::new();
    for site in &plan.sites {
        *counts.entry(site.kind).or_insert(0) += 1;
    }
    counts.into_iter().map(|(kind, sites)| KindCount { kind: kind.name(), sites }).collect()
}

/// As `12 qkv, 12 scores`.
fn kinds_line(kinds: &[KindCount]) -> String {
    kinds.iter().map(|k| format!("{} {}", k.sites, k.kind)).collect::<Vec<_>>().join(", ")
}

/// The table of what stays float; empty if nothing does.
fn float_table(nodes: &[FloatNode]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let rows = nodes.iter().map(|l| vec![l.op.clone(), l.node.clone(), l.reason.clone()]);
    format!("\nstays in float:\n{}", table(&["op", "node", "why"], &[Align::Left; 3], rows))
}
