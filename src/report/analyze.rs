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
        let row = |site: &Harm| {
            let block = site.block.map_or(String::new(), |block| block.to_string());
            let figures = [format!("{:.5}", site.alone), format!("{:.5}", site.gain)];
            [vec![site.name.clone(), site.kind.into(), block], figures.to_vec()].concat()
        };
        let heading = ["site", "kind", "block", "harm alone", "gain in float"];
        let align = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
        f.write_str(&table(&heading, &align, sites.iter().take(self.top).map(row)))?;
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
