//! Results as Markdown, for pull requests and summaries, and as tests, which build servers show.

use std::fmt::{Display, Write};

use serde::Serialize;

use super::{Align, AnalyzeReport, CheckReport, QuantizeReport, kinds_line, share_line};
use crate::plan::FloatNode;
use crate::text::shown;

/// What a command found, in every form.
pub trait Report: Display + Serialize {
    /// GitHub's Markdown.
    fn markdown(&self) -> String;

    /// What was tested; a command that tests nothing has one test, which passed.
    fn tests(&self) -> Vec<Test>;
}

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// What is tested.
    pub name: String,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
    /// What was found.
    pub output: String,
}

impl Test {
    fn passed(name: &str, output: String) -> Self {
        Self { name: name.into(), failure: None, output }
    }
}

impl Report for CheckReport {
    fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", inline(&self.headline()));
        for doubt in &self.comparison.doubts {
            let _ = writeln!(text, "> **Not to be trusted:** {}\n", inline(doubt));
        }
        for criterion in self.verdict.iter().flat_map(|verdict| &verdict.criteria) {
            if criterion.too_few_to_tell {
                let _ = writeln!(
                    text,
                    "> There are too few images to tell: the {} may be on either side.\n",
                    criterion.of
                );
            }
        }
        if let Some(accuracy) = self.comparison.accuracy {
            let row = |name: &str, of: fn(&crate::check::TopK) -> f64| {
                let [float, quantized] =
                    [&accuracy.float, &accuracy.quantized].map(|top| format!("{:.2} %", of(top)));
                vec![name.into(), float, quantized]
            };
            let rows = [row("top-1 accuracy", |top| top.top1), row("top-5 accuracy", |top| top.top5)];
            text += &table(&["", "float", "quantized"], &[Align::Left, Align::Right, Align::Right], rows);
        }
        let heading = ["", "quantized against float (95 % interval)"];
        text += &table(&heading, &[Align::Left; 2], self.rows());
        let sites =
            self.comparison.sites.iter().map(|site| vec![site.name.clone(), site.sqnr_db.to_string()]);
        if sites.len() > 0 {
            text += &table(&["site", "SQNR"], &[Align::Left, Align::Right], sites);
        }
        for warning in self.warnings.iter().chain(&self.comparison.remarks) {
            let _ = writeln!(text, "> **Warning:** {}\n", inline(warning));
        }
        text
    }

    fn tests(&self) -> Vec<Test> {
        let mut tests: Vec<Test> = self
            .verdict
            .iter()
            .flat_map(|verdict| &verdict.criteria)
            .map(|criterion| Test {
                name: format!("{}: {}", criterion.of, criterion.asked),
                failure: (!criterion.met).then(|| criterion.to_string()),
                output: criterion.to_string(),
            })
            .collect();
        let doubts = self.comparison.doubts.join("; ");
        tests.push(Test {
            name: "the figures can be trusted".into(),
            failure: (!doubts.is_empty()).then(|| doubts.clone()),
            output: format!("compared on {} images", self.comparison.images),
        });
        tests
    }
}

impl Report for QuantizeReport {
    fn markdown(&self) -> String {
        let mb = |bytes: u64| format!("{:.2} MB", bytes as f64 / 1e6);
        let mut text = format!("### {} → {}\n\n", inline(&self.model), inline(&self.output));
        let row = |name: &str, value: String| vec![name.to_string(), value];
        let rows = [
            row("sites", format!("{}: {}", self.sites, kinds_line(&self.kinds))),
            row("integer", share_line(self.multiplications)),
            row("method", self.method()),
            row("size", format!("{} → {}", mb(self.bytes_before), mb(self.bytes_after))),
            row("time", format!("{:.1} s", self.seconds)),
        ];
        text += &table(&["", ""], &[Align::Left; 2], rows);
        if !self.float.is_empty() {
            let share =
                |percent: Option<f64>| percent.map_or(String::new(), |percent| format!("{percent:.1} %"));
            let rows = self.float.iter().map(|FloatNode { node, op, reason, percent, .. }| {
                vec![op.clone(), share(*percent), node.clone(), reason.clone()]
            });
            let align = [Align::Left, Align::Right, Align::Left, Align::Left];
            text += &table(&["stays in float", "share", "node", "why"], &align, rows);
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "> **Warning:** {}\n", inline(warning));
        }
        text += &self.analyze.as_ref().map_or(String::new(), AnalyzeReport::markdown);
        text + &self.check.as_ref().map_or(String::new(), CheckReport::markdown)
    }

    fn tests(&self) -> Vec<Test> {
        let mut tests = vec![Test::passed("quantize", share_line(self.multiplications))];
        tests.extend(self.check.iter().flat_map(CheckReport::tests));
        tests
    }
}

impl Report for AnalyzeReport {
    fn markdown(&self) -> String {
        let analysis = &self.analysis;
        let mut text = format!(
            "### {}: {} from the float model {:.5} with all {} sites quantized, on {} images\n\n",
            inline(&self.model),
            analysis.distance,
            analysis.all,
            analysis.sites.len(),
            analysis.images
        );
        let rows = analysis.sites.iter().take(self.top).map(|site| self.row(site));
        text += &table(&self.heading(), &self.align(), rows);
        for warning in &self.warnings {
            let _ = writeln!(text, "> **Warning:** {}\n", inline(warning));
        }
        text
    }

    fn tests(&self) -> Vec<Test> {
        vec![Test::passed("analyze", format!("{} sites", self.analysis.sites.len()))]
    }
}

/// A table in GitHub's Markdown, and an empty line.
fn table(heading: &[&str], align: &[Align], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let ruler = align.iter().map(|align| if *align == Align::Right { "---:" } else { "---" }.to_string());
    let mut text = line(heading.iter().map(ToString::to_string).collect()) + &line(ruler.collect());
    for row in rows {
        text += &line(row.iter().map(|cell| inline(cell)).collect());
    }
    text + "\n"
}

/// Text that Markdown leaves as it is.
fn inline(text: &str) -> String {
    let mut escaped = String::new();
    for c in shown(text).chars() {
        if "\\`*_[]<>|#".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_a_cell_or_begin_a_link() {
        let text =
            table(&["a", "b"], &[Align::Left, Align::Right], [vec!["x|y\n".into(), "[1](u) `c` <b>".into()]]);
        assert_eq!(text, "| a | b |\n| --- | ---: |\n| x\\|y\\\\n | \\[1\\](u) \\`c\\` \\<b\\> |\n\n");
    }
}
