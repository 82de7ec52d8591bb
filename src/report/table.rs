//! Columns of text.

use std::fmt::Write;

use crate::text::shown;

/// The side on which a column is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

const GAP: &str = "  ";

/// Rows below a heading, in columns as wide as their widest cell, each as it may be [`shown`]. Every line ends with a line
/// feed, none with spaces.
pub fn table(heading: &[&str], align: &[Align], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![heading.iter().map(|cell| (*cell).to_string()).collect()];
    lines.extend(rows.into_iter().map(|row| row.iter().map(|cell| shown(cell).into_owned()).collect()));
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for ((cell, &width), align) in line.iter().zip(&widths).zip(align) {
            shown.push_str(GAP);
            // Writing to a string cannot fail.
            let _ = match align {
                Align::Left => write!(shown, "{cell:<width$}"),
                Align::Right => write!(shown, "{cell:>width$}"),
            };
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["qkv", "9.5"], ["é", "10.25"]].map(|row| row.map(String::from).to_vec());
        let text = table(&["site", "dB"], &[Align::Left, Align::Right], rows);
        assert_eq!(text, "  site     dB\n  qkv     9.5\n  é     10.25\n");
        let text = table(&["a", "why"], &[Align::Left; 2], [vec!["long".into(), String::new()]]);
        assert_eq!(text, "  a     why\n  long\n");
        let text = table(&["a"], &[Align::Left], [vec!["x\ny".into()], vec!["n".repeat(100_000)]]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("x\\ny") && text.len() < 2000, "{text}");
    }
}
