//! What a command found out, for people (text) and for machines (JSON).

mod analyze;
mod check;
mod formats;
mod inspect;
mod load;
mod quantize;
mod table;

pub use analyze::AnalyzeReport;
pub use check::CheckReport;
pub use formats::{Report, Test};
pub use inspect::{InspectReport, QuantizedSite, SiteRow};
pub use load::load;
pub use quantize::QuantizeReport;
pub use table::{Align, table};

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::{FloatNode, Multiplications, Plan};

/// How many sites of a kind there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    let share = |node: &FloatNode| node.percent.map_or(String::new(), |percent| format!("{percent:.1} %"));
    let rows = nodes.iter().map(|n| vec![n.op.clone(), share(n), n.node.clone(), n.reason.clone()]);
    let align = [Align::Left, Align::Right, Align::Left, Align::Left];
    format!("\nstays in float:\n{}", table(&["op", "share", "node", "why"], &align, rows))
}

/// As `98.7 % of the multiplications are integer`.
fn share_line(count: Option<Multiplications>) -> String {
    match count {
        Some(count) => format!("{:.1} % of the multiplications are integer", count.integer_percent()),
        None => "which share of the multiplications is integer can't be told: a shape is unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use schemars::{JsonSchema, schema_for};

    use super::*;

    /// The published schemas say what the types are; with `UPDATE_SCHEMAS=1` they are written anew.
    #[test]
    fn schemas_are_those_of_the_types() {
        fn check<T: JsonSchema>(name: &str) {
            let schema = serde_json::to_string_pretty(&schema_for!(T)).unwrap() + "\n";
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schemas/{name}.json"));
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                std::fs::write(&path, &schema).unwrap();
            }
            let published = std::fs::read_to_string(&path).unwrap();
            assert!(published == schema, "docs/schemas/{name}.json is not what UPDATE_SCHEMAS=1 writes");
        }
        check::<QuantizeReport>("quantize");
        check::<CheckReport>("check");
        check::<AnalyzeReport>("analyze");
    }
}
