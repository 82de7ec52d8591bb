//! Charts as SVG, in colours that the style sheet of the page changes for a dark screen.

use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{BoldPoints, KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement};
use plotters::series::{AreaSeries, LineSeries};
use plotters::style::{Color as _, IntoFont, RGBColor, ShapeStyle, TRANSPARENT};

/// The size of a chart in units of its own; the page scales it.
pub(super) const SIZE: (u32, u32) = (840, 440);

/// The size of the text in these units.
const TEXT: u32 = 22;

/// A colour of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Text,
    Grid,
    Blue,
    Orange,
    Green,
    Violet,
    Red,
}

impl Ink {
    pub(super) const ALL: [Self; 7] =
        [Self::Text, Self::Grid, Self::Blue, Self::Orange, Self::Green, Self::Violet, Self::Red];

    /// The name by which the style sheet knows it, and its colour on a light screen.
    pub(super) fn name_and_rgb(self) -> (&'static str, [u8; 3]) {
        match self {
            Self::Text => ("text", [0x1f, 0x24, 0x30]),
            Self::Grid => ("grid", [0xd9, 0xdd, 0xe3]),
            Self::Blue => ("blue", [0x1d, 0x5f, 0xc4]),
            Self::Orange => ("orange", [0xb4, 0x53, 0x09]),
            Self::Green => ("green", [0x04, 0x78, 0x57]),
            Self::Violet => ("violet", [0x7c, 0x3a, 0xed]),
            Self::Red => ("red", [0xb9, 0x1c, 0x1c]),
        }
    }

    fn color(self) -> RGBColor {
        let (_, [r, g, b]) = self.name_and_rgb();
        RGBColor(r, g, b)
    }
}

/// An axis: where it begins and ends, what is written at which place, and what it measures.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    range: Range<f64>,
    ticks: Vec<(f64, String)>,
    title: String,
}

impl Axis {
    /// Ticks at round numbers.
    pub(super) fn linear(range: [f64; 2], title: &str) -> Self {
        let [low, high] = range;
        let coord = RangedCoordf64::from(low..high);
        let ticks = coord.key_points(BoldPoints(6)).into_iter().map(|x| (x, number(x))).collect();
        Self { range: low..high, ticks, title: title.into() }
    }

    /// The places are decimal logarithms; ticks at powers of ten.
    pub(super) fn decades([low, high]: [f64; 2], title: &str) -> Self {
        let (first, last) = (low.ceil() as i32, high.floor() as i32);
        let step = ((last - first) / 6).max(0) + 1;
        let tick = |power: i32| (f64::from(power), number(10f64.powi(power)));
        let ticks = (first..=last).step_by(step as usize).map(tick).collect();
        Self { range: low..high, ticks, title: title.into() }
    }

    /// Ticks where they are given.
    pub(super) fn with_ticks([low, high]: [f64; 2], ticks: Vec<(f64, String)>, title: &str) -> Self {
        Self { range: low..high, ticks, title: title.into() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        from + (part.clamp(0.0, 1.0) * f64::from(to - from)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|(place, _)| place == value).map_or(String::new(), |(_, text)| text.clone())
    }
}

/// What is drawn.
pub(super) enum Mark {
    /// The area between a line and zero.
    Area(Vec<(f64, f64)>, Ink),
    /// A line through points.
    Line(Vec<(f64, f64)>, Ink),
    /// A stroke upright at each place, from the one height to the other.
    Comb(Vec<f64>, [f64; 2], Ink),
    /// A dot.
    Dot((f64, f64), Ink),
}

/// The chart as an SVG element that fills the width it is given.
pub(super) fn chart(x: &Axis, y: &Axis, marks: &[Mark]) -> String {
    let mut svg = String::new();
    // A string can always be written to.
    drawn(&mut svg, x, y, marks).expect("the drawing goes to a string");
    compact(&svg)
}

fn drawn(
    svg: &mut String,
    x: &Axis,
    y: &Axis,
    marks: &[Mark],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .margin_right(44)
        .x_label_area_size(70)
        .y_label_area_size(118)
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Ink::Grid.color())
        .axis_style(Ink::Grid.color())
        .label_style(("sans-serif", TEXT).into_font().color(&Ink::Text.color()))
        .x_desc(&x.title)
        .y_desc(&y.title)
        .draw()?;
    let stroke = |ink: Ink| ShapeStyle { color: ink.color().to_rgba(), filled: false, stroke_width: 3 };
    for mark in marks {
        match mark {
            Mark::Area(points, ink) => {
                let area = AreaSeries::new(points.iter().copied(), 0.0, ink.color().mix(0.3));
                chart.draw_series(area)?;
            }
            Mark::Line(points, ink) => {
                chart.draw_series(LineSeries::new(points.iter().copied(), stroke(*ink)))?;
            }
            Mark::Comb(places, [from, to], ink) => {
                let points = places.iter().flat_map(|&x| [(x, *from), (x, *to), (x, *from)]);
                let thin = ShapeStyle { stroke_width: 2, ..stroke(*ink) };
                chart.draw_series([PathElement::new(points.collect::<Vec<_>>(), thin)])?;
            }
            Mark::Dot(at, ink) => {
                chart.draw_series([Circle::new(*at, 6, ink.color().filled())])?;
            }
        }
    }
    root.present()
}

/// The same SVG in fewer bytes: what holds for all elements is said by the style sheet.
fn compact(svg: &str) -> String {
    let font = format!(" font-family=\"sans-serif\" font-size=\"{}\"", f64::from(TEXT) / 1.24);
    let (width, height) = SIZE;
    svg.replace(&font, "")
        .replace(" opacity=\"1\"", "")
        .replace(" \"/>", "\"/>")
        .replace(&format!("width=\"{width}\" height=\"{height}\" "), "")
        .replace(" xmlns=\"http://www.w3.org/2000/svg\"", " aria-hidden=\"true\"")
        .replace(">\n", ">")
        .replace("\n<", "<")
}

/// `x` in few digits.
pub(super) fn number(x: f64) -> String {
    let size = x.abs();
    match size {
        0.0 => "0".into(),
        _ if (0.001..1e6).contains(&size) => {
            let digits = (2 - size.log10().floor() as i32).clamp(0, 6) as usize;
            let text = format!("{x:.digits$}");
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').into(),
                false => text,
            }
        }
        _ => format!("{x:.1e}").replace(".0e", "e"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases =
            [(0.0, "0"), (1.0, "1"), (0.25, "0.25"), (0.001, "0.001"), (12345.6, "12346"), (-3.157, "-3.16")];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
        assert_eq!((number(1e-7), number(2.5e9)), ("1e-7".into(), "2.5e9".into()));
    }

    #[test]
    fn a_chart_has_its_marks_in_the_colours_of_the_page() {
        let (x, y) = (Axis::linear([0.0, 10.0], "scale"), Axis::decades([-3.0, 0.0], "loss"));
        let marks = [
            Mark::Line(vec![(0.0, -3.0), (10.0, 0.0)], Ink::Blue),
            Mark::Comb(vec![5.0], [-3.0, -2.0], Ink::Orange),
            Mark::Dot((5.0, f64::NAN), Ink::Red),
        ];
        let svg = chart(&x, &y, &marks);
        assert!(svg.starts_with("<svg viewBox=\"0 0 840 440\" aria-hidden=\"true\">"), "{svg}");
        for part in ["0.001", "scale", "loss", "#1D5FC4", "#B45309", "</svg>"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("font-size"), "{svg}");
        let drawn = Ink::ALL.map(|ink| format!("{:02X?}", ink.name_and_rgb().1));
        assert_eq!(drawn.len(), drawn.iter().collect::<std::collections::BTreeSet<_>>().len());
    }
}
