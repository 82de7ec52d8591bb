//! The result of `analyze`.

use std::fmt;

use serde::Serialize;

use super::{Align, table};
use crate::analyze::{Analysis, Harm};
use crate::text::shown;

/// An analysis, and how much of it is shown.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AnalyzeReport {
    /// The float model's file.
    pub model: String,
    /// How many sites the text shows.
    #[serde(skip)]
    pub top: usize,
    /// The figures.
    #[serde(flatten)]
    pub analysis: Analysis,
    /// What was warned of on the way.
    pub warnings: Vec<String>,
}

impl AnalyzeReport {
    /// Whether some site has fewer than 8 bits.
    fn has_few_bits(&self) -> bool {
        self.analysis.sites.iter().any(|site| site.lhs_in_8_bits.is_some() || site.rhs_in_8_bits.is_some())
    }

    /// The columns of the table of sites.
    pub(super) fn heading(&self) -> Vec<&'static str> {
        let mut heading = vec!["site", "kind", "block", "share", "weight", "harm alone", "gain in float"];
        if self.has_few_bits() {
            heading.extend(["lhs in 8 bits", "rhs in 8 bits"]);
        }
        heading
    }

    pub(super) fn align(&self) -> Vec<Align> {
        let mut align = vec![Align::Right; self.heading().len()];
        align[..2].fill(Align::Left);
        align
    }

    pub(super) fn row(&self, site: &Harm) -> Vec<String> {
        // What is small is shown as well.
        let distance = |x: Option<f64>| match x {
            None => String::new(),
            Some(x) if x != 0.0 && x.abs() < 1e-3 => format!("{x:.1e}"),
            Some(x) => format!("{x:.5}"),
        };
        let [bytes, _] = site.weight_bytes;
        let mut row = vec![
            site.name.clone(),
            site.kind.into(),
            site.block.map_or(String::new(), |block| block.to_string()),
            site.share.map_or(String::new(), |share| format!("{share:.1} %")),
            if bytes == 0 { String::new() } else { format!("{:.1} kB", bytes as f64 / 1e3) },
            distance(Some(site.alone)),
            distance(Some(site.gain)),
        ];
        if self.has_few_bits() {
            row.extend([site.lhs_in_8_bits, site.rhs_in_8_bits].map(distance));
        }
        row
    }
}

impl fmt::Display for AnalyzeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Analysis { images, distance, all, rank_correlation, sites, .. } = &self.analysis;
        let images = format!("{images} {}", if *images == 1 { "image" } else { "images" });
        writeln!(
            f,
            "{distance} from the float model {all:.5} with all {} sites quantized, on {images}",
            sites.len()
        )?;
        if let Some(correlation) = rank_correlation {
            writeln!(
                f,
                "rank correlation of the search's losses with the harm of each site alone: {correlation:.2}"
            )?;
        }
        writeln!(f)?;
        let shown_sites = &sites[..sites.len().min(self.top)];
        f.write_str(&table(&self.heading(), &self.align(), shown_sites.iter().map(|site| self.row(site))))?;
        if sites.len() > self.top {
            writeln!(f, "  and {} more (--top)", sites.len() - self.top)?;
        }
        if let Some(worst) = sites.first().filter(|worst| worst.alone > 0.1 * all) {
            writeln!(f, "\nto leave the first in float: --exclude '{}'", shown(&worst.name))?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {}", shown(warning))?;
        }
        Ok(())
    }
}
