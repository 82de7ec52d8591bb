//! Holds the code to the architecture: which module imports which, where tract and `unsafe` may appear, and how long
//! a file may be. ARCHITECTURE.md says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every module of the library and what it imports, all of it from rows above its own: nothing reaches back.
#[rustfmt::skip]
const TABLE: &[(&str, &[&str])] = &[
    ("error",     &[]),
    ("files",     &["error"]),
    ("progress",  &[]),
    ("quant",     &["error"]),
    ("kernel",    &[]),
    ("onnx",      &["error", "files"]),
    ("data",      &["error", "files"]),
    ("normalize", &["error", "onnx"]),
    ("pattern",   &["onnx"]),
    ("autodiff",  &["error"]),
    ("import",    &["error", "onnx"]),
    ("session",   &["error", "onnx", "autodiff", "import"]),
    ("plan",      &["error", "onnx", "pattern"]),
    ("calibrate", &["error", "files", "progress", "quant", "kernel", "onnx", "data", "session", "plan"]),
    ("export",    &["error", "quant", "onnx", "plan", "calibrate"]),
    ("integer",   &["error", "quant", "kernel", "onnx", "normalize", "import"]),
    ("check",     &["error", "progress", "data", "session", "integer"]),
    ("report",    &["plan", "calibrate", "check"]),
];

/// The binary, which may import every module of the library; and the crate's root, which declares them.
const OUTSIDE: &[&str] = &["cli", "main", "lib"];

/// Words that belong to some places alone, tests included. A final `*` stands for any ending.
const WORDS: &[(&str, &[&str])] = &[
    ("tract*", &["autodiff/", "import/", "session/", "integer/"]),
    ("unsafe", UNSAFE),
    ("unsafe_code", UNSAFE),
    ("anyhow", &["cli/"]),
    ("clap", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("ctrlc", &["cli/"]),
    ("sysinfo", &["cli/"]),
    ("bytesize", &["cli/", "import/"]),
];
const UNSAFE: &[&str] = &["kernel/avx2.rs", "kernel/vnni.rs", "integer/ops/written.rs", "onnx/mmap.rs"];

const LONGEST_FILE: usize = 450;

#[test]
fn modules_import_only_what_their_row_lists() {
    let sources = sources();
    let tests = test_modules(&sources);
    let mut faults = Vec::new();
    for source in &sources {
        let module = source.module();
        if OUTSIDE.contains(&module[0]) || tests.contains(&module.join("/")) {
            continue;
        }
        let Some((_, row)) = TABLE.iter().find(|(name, _)| *name == module[0]) else {
            faults.push(format!("src/{}: the module `{}` has no row", source.path, module[0]));
            continue;
        };
        for import in imports(&without_tests(&tokens(&source.text)).0, module.len()) {
            let name = match import.text.as_str() {
                "Error" | "Result" => "error",
                name => name,
            };
            if name != module[0] && !row.contains(&name) {
                let place = format!("src/{}:{}", source.path, import.line);
                faults
                    .push(format!("{place}: `{}` imports `{name}`, which its row does not list", module[0]));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// `cli` is no module of the library: it is in the binary.
#[test]
fn every_row_is_a_module_and_every_module_has_a_row() {
    let rows: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_string()).collect();
    let sources = sources();
    let found = sources.iter().map(|source| source.module()[0].to_string());
    assert_eq!(found.filter(|name| !OUTSIDE.contains(&name.as_str())).collect::<BTreeSet<_>>(), rows);

    let root = sources.iter().find(|source| source.path == "lib.rs").expect("the library has a root");
    let root = tokens(&root.text);
    let declared = root.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].text.clone());
    assert_eq!(declared.collect::<BTreeSet<_>>(), rows);
}

#[test]
fn rows_list_only_rows_above_them() {
    for (at, (name, row)) in TABLE.iter().enumerate() {
        for import in *row {
            let above = TABLE[..at].iter().any(|(name, _)| name == import);
            assert!(above, "the row of `{name}` lists `{import}`, which is no row above it");
        }
    }
}

#[test]
fn some_words_stay_where_they_belong() {
    let mut faults = Vec::new();
    for source in sources() {
        for token in tokens(&source.text) {
            let rule = WORDS.iter().find(|(word, _)| match word.strip_suffix('*') {
                Some(beginning) => token.text.starts_with(beginning),
                None => token.text == *word,
            });
            let Some((_, places)) = rule else { continue };
            if !places.iter().any(|place| source.path.starts_with(place)) {
                let Source { path, .. } = &source;
                faults.push(format!("src/{path}:{}: `{}` belongs to {places:?}", token.line, token.text));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_are_short() {
    let lines = |source: &Source| source.text.lines().count();
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| lines(source) > LONGEST_FILE)
        .map(|source| format!("src/{}: {} lines, at most {LONGEST_FILE}", source.path, lines(source)))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

/// What the tests above rest on: that imports are found in every spelling, and only there.
#[test]
fn the_scanner_sees_code_alone() {
    #[track_caller]
    fn check(code: &str, depth: usize, expected: &[(&str, usize)]) {
        let found = imports(&without_tests(&tokens(code)).0, depth);
        let found: Vec<_> = found.iter().map(|token| (token.text.as_str(), token.line)).collect();
        assert_eq!(found, expected, "{code}");
    }
    check("use crate::plan::Plan;", 1, &[("plan", 1)]);
    check(
        "use crate::\n{Error, onnx::{Graph, tensor}, quant};",
        1,
        &[("Error", 2), ("onnx", 2), ("quant", 2)],
    );
    check("fn f(x: &crate::plan::Plan) {\n  crate::onnx::dump(x) }", 1, &[("plan", 1), ("onnx", 2)]);
    check("use crate::*;", 1, &[("*", 1)]);
    // `super` leads out of a module of depth 1, not out of a deeper one.
    check("use super::plan;", 1, &[("plan", 1)]);
    check("use super::plan;", 2, &[]);
    check("use super::super::{plan, Error};", 2, &[("plan", 1), ("Error", 1)]);
    check("pub(crate) fn f() {} pub(super) fn g() {}", 1, &[]);
    // Neither comments nor literals are code, and what follows them is.
    check("/// [x](crate::plan)\nuse crate::quant;", 1, &[("quant", 2)]);
    check("/* crate::plan /* */ crate::plan */ use crate::quant;", 1, &[("quant", 1)]);
    check(r#"f("crate::plan \" crate::plan", b"\\"); use crate::quant;"#, 1, &[("quant", 1)]);
    check("f(r#\"crate::plan\" \"#, '\"', '\\'', b'\"'); use crate::quant;", 1, &[("quant", 1)]);
    check("fn f<'a>(x: &'a str) -> crate::Result<'a> {}", 1, &[("Result", 1)]);
    // Tests are left out, and what follows them is not.
    check("#[cfg(test)]\nmod tests { fn f() { crate::plan::f() } }\nuse crate::quant;", 1, &[("quant", 3)]);
    check("#[cfg(test)]\nmod tests;\nuse crate::quant;", 1, &[("quant", 3)]);
    check("#[cfg(test)] use crate::plan::{Plan, Site};\nuse crate::quant;", 1, &[("quant", 2)]);
    assert_eq!(without_tests(&tokens("mod a; #[cfg(test)] mod b; mod c;")).1, ["b"]);
}

/// A file below `src/`.
struct Source {
    /// With `/` on every system.
    path: String,
    text: String,
}

impl Source {
    /// Its module's path: of `onnx/mod.rs` it is `[onnx]`, of `onnx/graph.rs` `[onnx, graph]`.
    fn module(&self) -> Vec<&str> {
        let mut parts: Vec<&str> = self.path.strip_suffix(".rs").unwrap_or(&self.path).split('/').collect();
        parts.pop_if(|last| *last == "mod");
        parts
    }
}

/// Every Rust file, in the order of the paths.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let place = entry.expect("the folder can be listed").path();
        let name = place.file_name().and_then(|name| name.to_str()).expect("names are UTF-8");
        let path = format!("{prefix}{name}");
        if place.is_dir() {
            collect(&place, &format!("{path}/"), found);
        } else if place.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&place).expect("sources are UTF-8");
            found.push(Source { path, text });
        }
    }
}

/// The paths of the modules that are compiled for tests alone (`#[cfg(test)] mod tests;`).
fn test_modules(sources: &[Source]) -> BTreeSet<String> {
    let of_source = |source: &Source| {
        let parent = source.module().join("/");
        let names = without_tests(&tokens(&source.text)).1;
        names.into_iter().map(move |name| format!("{parent}/{name}"))
    };
    sources.iter().flat_map(of_source).collect()
}

/// A word or a sign of the code.
#[derive(Clone)]
struct Token {
    text: String,
    line: usize,
}

/// The code of a file without comments, literals of text and space.
fn tokens(source: &str) -> Vec<Token> {
    let source: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < source.len() {
        let (length, is_code) = first_piece(&source[at..]);
        let piece = &source[at..at + length];
        if is_code {
            tokens.push(Token { text: piece.iter().collect(), line });
        }
        line += piece.iter().filter(|c| **c == '\n').count();
        at += length;
    }
    tokens
}

/// The length of the first piece of `rest`, which is not empty, and whether it is code.
fn first_piece(rest: &[char]) -> (usize, bool) {
    let up_to = |wanted: char, from: usize| {
        let end = rest.iter().skip(from).position(|c| *c == wanted);
        end.map_or(rest.len(), |end| from + end)
    };
    match rest {
        ['/', '/', ..] => (up_to('\n', 0), false),
        ['/', '*', ..] => (comment(rest), false),
        ['"', ..] => (string(rest), false),
        ['\'', '\\', ..] => ((up_to('\'', 3) + 1).min(rest.len()), false),
        ['\'', _, '\'', ..] => (3, false),
        [c, ..] if is_of_word(*c) => {
            let word = rest.iter().position(|c| !is_of_word(*c)).unwrap_or(rest.len());
            match raw_string(&rest[..word], &rest[word..]) {
                Some(length) => (word + length, false),
                None => (word, true),
            }
        }
        [c, ..] => (1, !c.is_whitespace()),
        [] => (0, false),
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a block comment, in which others may be.
fn comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        match &rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of `#"…"#` behind the `prefix` of a raw string; `None` if there is none.
fn raw_string(prefix: &[char], rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    let is_raw = matches!(prefix, ['r'] | ['b' | 'c', 'r']) && rest.get(hashes) == Some(&'"');
    let body = rest.get(hashes + 1..).filter(|_| is_raw)?;
    let mut end = vec!['"'];
    end.resize(hashes + 1, '#');
    let length = body.windows(end.len()).position(|window| window == end.as_slice())?;
    Some(hashes + 1 + length + end.len())
}

/// The tokens outside `#[cfg(test)]` items, and the modules in files of their own that such items name.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    const ATTRIBUTE: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if !begins_with(rest, ATTRIBUTE) {
            kept.push(first.clone());
            rest = after;
            continue;
        }
        let item = &rest[ATTRIBUTE.len()..];
        if let [keyword, name, end, ..] = item
            && keyword.text == "mod"
            && end.text == ";"
        {
            modules.push(name.text.clone());
        }
        rest = &item[item_length(item)..];
    }
    (kept, modules)
}

/// Up to the first semicolon or the end of the first braces. (Of a `use` with braces, the semicolon is left.)
fn item_length(item: &[Token]) -> usize {
    let mut depth = 0;
    for (at, token) in item.iter().enumerate() {
        match token.text.as_str() {
            ";" if depth == 0 => return at + 1,
            "{" => depth += 1,
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            _ => {}
        }
    }
    item.len()
}

/// The names at the crate's root that a module `depth` levels below it uses: `crate::name`, `crate::{name, …}`, and
/// the same behind as many `super::`.
fn imports(tokens: &[Token], depth: usize) -> Vec<Token> {
    let up = ["super", ":", ":"].repeat(depth);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let rest = &tokens[at..];
        if begins_with(rest, &["crate", ":", ":"]) {
            found.extend(heads(&rest[3..]));
        } else if begins_with(rest, &up) {
            found.extend(heads(&rest[up.len()..]));
        }
    }
    found
}

/// The first name of a path, or of every path between braces.
fn heads(path: &[Token]) -> Vec<Token> {
    let (mut found, mut depth, mut begins) = (Vec::new(), 0, true);
    for token in path {
        match token.text.as_str() {
            "{" => {
                depth += 1;
                begins = depth == 1;
            }
            "}" => depth -= 1,
            "," => begins = depth == 1,
            _ if begins => {
                found.push(token.clone());
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn begins_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}
