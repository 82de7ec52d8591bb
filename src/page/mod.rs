//! What was found out, as one HTML file that needs nothing else: no network, and no script to be read.

mod accuracy;
mod chart;
mod images;
mod sensitivity;
mod sites;
mod summary;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::calibrate::{Calibration, SiteCurves};
use crate::plan::FloatNode;
use crate::report::{AnalyzeReport, CheckReport, QuantizeReport};
use crate::text::shown;
use chart::Ink;

/// What a page shows; what is missing has no place on it.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// How the model was quantized.
    pub quantize: Option<QuantizeReport>,
    /// How accurate it is.
    pub check: Option<CheckReport>,
    /// What each site does to the output.
    pub analyze: Option<AnalyzeReport>,
    /// The scales that were found.
    pub calibration: Option<Calibration>,
    /// The kind of each site, by name.
    pub kinds: BTreeMap<String, &'static str>,
    /// The values and the losses of the sites.
    pub curves: Vec<SiteCurves>,
    /// Of some sites, by name: the distance of the output from that of the float model with each quantizer of its curve.
    pub task_losses: BTreeMap<String, Vec<f64>>,
    /// JPEG files of images, by name.
    pub thumbnails: BTreeMap<String, Vec<u8>>,
    /// By class.
    pub class_names: Vec<String>,
    /// How fast both models are, in milliseconds for an image: the float model and the quantized one.
    pub speed: Option<Speed>,
    /// What is needed to repeat it: a name and a value each.
    pub provenance: Vec<(String, String)>,
}

/// The median time of one image.
#[derive(Clone, Debug)]
pub struct Speed {
    /// The float model, in milliseconds.
    pub float: f64,
    /// The quantized model.
    pub quantized: f64,
    /// What was measured on what.
    pub how: String,
}

/// A part of the page: its anchor, its heading and its content.
struct Section {
    id: &'static str,
    title: &'static str,
    content: Markup,
}

impl Page {
    /// The file.
    pub fn to_html(&self) -> String {
        let sections: Vec<Section> = [
            accuracy::section(self),
            images::section(self),
            self.in_float(),
            sensitivity::section(self),
            sites::section(self),
            sites::outliers(self),
            self.repeat(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let title = summary::title(self);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy"
                        content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
                    title { (title) }
                    style { (PreEscaped(style())) }
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    header {
                        h1 { (title) }
                        (summary::verdict(self))
                        (summary::notes(self))
                        (summary::tiles(self))
                        nav aria-label="Sections" {
                            ul {
                                @for Section { id, title, .. } in &sections {
                                    li { a href={ "#" (id) } { (title) } }
                                }
                            }
                        }
                    }
                    main id="content" {
                        @for Section { id, title, content } in &sections {
                            section id=(id) aria-labelledby={ (id) "-heading" } {
                                h2 id={ (id) "-heading" } { (title) }
                                (content)
                            }
                        }
                    }
                    footer { p { "Written by onnx-ptq4vit " (env!("CARGO_PKG_VERSION")) "." } }
                    script { (PreEscaped(include_str!("script.js"))) }
                }
            }
        };
        page.into_string()
    }

    fn in_float(&self) -> Option<Section> {
        let nodes: &[FloatNode] = &self.quantize.as_ref()?.float;
        if nodes.is_empty() {
            return None;
        }
        let content = table(
            &["operator", "multiplications", "node", "why"],
            &[1],
            &html! {
                @for FloatNode { node, op, reason, percent, .. } in nodes {
                    tr {
                        td { (shown(op)) }
                        td.num { @if let Some(percent) = percent { (format!("{percent:.1} %")) } }
                        td.name { (shown(node)) }
                        td { (shown(reason)) }
                    }
                }
            },
        );
        Some(Section { id: "float", title: "What stays in float", content })
    }

    fn repeat(&self) -> Option<Section> {
        if self.provenance.is_empty() {
            return None;
        }
        let content = html! {
            dl.facts {
                @for (name, value) in &self.provenance {
                    dt { (name) }
                    dd { code { (crate::text::lines(value)) } }
                }
            }
        };
        Some(Section { id: "repeat", title: "To repeat it", content })
    }
}

/// A table in a frame that scrolls by itself; `numbers` are the columns that are flush right.
fn table(heading: &[&str], numbers: &[usize], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(heading.join(", ")) {
            table {
                thead { tr { @for (column, text) in heading.iter().enumerate() {
                    th.num[numbers.contains(&column)] scope="col" { (text) }
                } } }
                tbody { (rows) }
            }
        }
    }
}

/// The style sheet, with the colours of charts on a dark screen.
fn style() -> String {
    let dark = |ink: Ink| match ink {
        Ink::Text => "#e6e9ee",
        Ink::Grid => "#3a4250",
        Ink::Blue => "#7fb0ff",
        Ink::Orange => "#f5a54a",
        Ink::Green => "#4fd1a1",
        Ink::Violet => "#b79bff",
        Ink::Red => "#ff8d8d",
    };
    let mut css = include_str!("style.css").to_string();
    css += "@media screen and (prefers-color-scheme: dark) {\n";
    css += ":root { --page: #14171c; --card: #1c2027; --muted: #aab2bf; --good: #123a2b; --bad: #47191b; --warn: #42331a; \
            --plain: #1d2c46;";
    for ink in Ink::ALL {
        let _ = write!(css, " --{}: {};", ink.name_and_rgb().0, dark(ink));
    }
    css += " }\n";
    for ink in Ink::ALL {
        let (name, [r, g, b]) = ink.name_and_rgb();
        let drawn = format!("#{r:02X}{g:02X}{b:02X}");
        let _ = writeln!(css, "svg [fill=\"{drawn}\"] {{ fill: var(--{name}); }}");
        let _ = writeln!(css, "svg [stroke=\"{drawn}\"] {{ stroke: var(--{name}); }}");
    }
    css + "}\n"
}

/// A chart with a caption that says what it shows, also to those who do not see it.
fn figure(svg: &str, keys: &[(Ink, &str)], caption: &str) -> Markup {
    html! {
        figure {
            div role="img" aria-label=(caption) { (PreEscaped(svg)) }
            figcaption {
                @if !keys.is_empty() {
                    div { @for (ink, name) in keys { span.key.(ink.name_and_rgb().0) { (name) } " " } }
                }
                (caption)
            }
        }
    }
}

/// `n` and what they are.
fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
