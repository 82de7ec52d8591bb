//! Text of a file, as it may be shown: names, paths and messages come from others, and a terminal obeys what they hold.

use std::borrow::Cow;
use std::fmt::Write as _;

/// What is shown of one text, in characters.
const LONGEST: usize = 600;

/// `text` as part of one line: what a terminal would obey is escaped (`\u{1b}`, `\n`), and the middle of a long text is
/// left out.
pub fn shown(text: &str) -> Cow<'_, str> {
    let cut = cut(text);
    if !cut.contains(is_obeyed) {
        return cut;
    }
    let mut escaped = String::with_capacity(cut.len() + 16);
    for c in cut.chars() {
        escape(&mut escaped, c, |c| c.escape_default().to_string());
    }
    escaped.into()
}

/// Lines that are put together already: everything but their ends is escaped as in [`shown`]. Nothing is left out.
pub fn lines(text: &str) -> Cow<'_, str> {
    without_controls(text, |c| c.escape_default().to_string())
}

/// JSON, whose strings [`serde_json`] leaves with some characters that a terminal obeys: the same JSON without them.
pub fn json(text: &str) -> Cow<'_, str> {
    let unit = |c: char| {
        let mut units = [0; 2];
        let units: Vec<String> =
            c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect();
        units.concat()
    };
    without_controls(text, unit)
}

fn without_controls(text: &str, escaped: impl Fn(char) -> String + Copy) -> Cow<'_, str> {
    if !text.contains(|c| c != '\n' && is_obeyed(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' {
            out.push(c);
        } else {
            escape(&mut out, c, escaped);
        }
    }
    out.into()
}

fn escape(out: &mut String, c: char, escaped: impl Fn(char) -> String) {
    if is_obeyed(c) {
        out.push_str(&escaped(c));
    } else {
        out.push(c);
    }
}

/// The beginning and the end of a text that is too long for a line.
fn cut(text: &str) -> Cow<'_, str> {
    const END: usize = LONGEST / 3;
    if text.len() <= LONGEST {
        return text.into();
    }
    let count = text.chars().count();
    if count <= LONGEST {
        return text.into();
    }
    let at = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let mut kept = text[..at(LONGEST - END)].to_string();
    // Writing to a string cannot fail.
    let _ = write!(kept, "[… {} characters …]", count - LONGEST);
    kept.push_str(&text[at(count - END)..]);
    kept.into()
}

/// Control characters (among them those of escape sequences), what turns the direction of writing, line ends that only
/// some programs know, and characters without any width.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, expected) in [
            ("blocks.0/attn é 注意 🙂", "blocks.0/attn é 注意 🙂"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}31m\u{7f}\0", "\\u{9b}31m\\u{7f}\\u{0}"),
            ("\u{202e}gnp.exe\u{2066}", "\\u{202e}gnp.exe\\u{2066}"),
            ("\u{200b}\u{feff}\u{e0041}", "\\u{200b}\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(lines(text), expected.replace("\\n", "\n"));
            let written = serde_json::to_string(text).unwrap();
            let safe = json(&written);
            assert!(!safe.contains(is_obeyed), "{safe}");
            assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }
    }

    #[test]
    fn long_text_keeps_its_ends() {
        let fits = "é".repeat(LONGEST);
        assert_eq!(shown(&fits), fits);
        let long = format!("begin{}end", "é".repeat(100_000));
        let cut = shown(&long);
        assert!(cut.starts_with("begin") && cut.ends_with("end"), "{cut}");
        assert!(cut.contains("[… 99408 characters …]") && cut.chars().count() < LONGEST + 40, "{cut}");
    }
}
