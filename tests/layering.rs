//! Holds the code to the tables of ARCHITECTURE.md, and its files to a length.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use walkdir::WalkDir;

/// The crate's root, which declares the modules; and the binary, which may import all of them.
const OUTSIDE: &[&str] = &["lib", "main", "cli"];
const LONGEST_FILE: usize = 450;

#[test]
fn modules_import_only_what_their_row_lists() {
    let (sources, rows) = (sources(), table("module"));
    let tests: Vec<String> = sources.iter().flat_map(|(path, code)| test_modules(path, code)).collect();
    let mut faults = Vec::new();
    for (path, code) in &sources {
        let module = module(path);
        let (top, whole) = (module[0], format!("{}/", module.join("/")));
        if OUTSIDE.contains(&top) || tests.iter().any(|test| whole.starts_with(test)) {
            continue;
        }
        let row = rows.iter().find(|(name, _)| *name == top).map_or(&[][..], |(_, row)| row);
        for (name, line) in imports(code, module.len()) {
            let name = origin(&name, &sources[Path::new("lib.rs")]);
            if name != top && !row.contains(&&*name) {
                faults.push(format!("src/{}:{line}: `{top}` must not import `{name}`", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_row_is_a_module_and_every_module_has_a_row() {
    let sources = sources();
    let rows: BTreeSet<_> = table("module").into_iter().map(|(name, _)| name.to_string()).collect();
    let files = sources.keys().map(|path| module(path)[0]).filter(|name| !OUTSIDE.contains(name));
    assert_eq!(files.map(String::from).collect::<BTreeSet<_>>(), rows, "the files");
    let root = trees(&sources[Path::new("lib.rs")]);
    // A module with braces re-exports names of the others.
    let declared = root.windows(3).filter(|item| is(&item[0], "mod") && is(&item[2], ";"));
    let declared = declared.map(|item| item[1].to_string());
    assert_eq!(declared.collect::<BTreeSet<_>>(), rows, "the modules that lib.rs declares");
}

#[test]
fn rows_list_only_rows_above_them() {
    let rows = table("module");
    for (at, (name, row)) in rows.iter().enumerate() {
        assert!(rows[..at].iter().all(|(above, _)| above != name), "`{name}` has two rows");
        let below = row.iter().find(|import| rows[..at].iter().all(|(above, _)| above != *import));
        assert_eq!(below, None, "the row of `{name}` lists what is no row above it");
    }
}

#[test]
fn some_words_stay_where_they_belong() {
    let (sources, rules) = (sources(), table("word"));
    let tests: Vec<String> = sources.iter().flat_map(|(path, code)| test_modules(path, code)).collect();
    let mut faults = Vec::new();
    for (path, code) in &sources {
        let whole = format!("{}/", module(path).join("/"));
        if tests.iter().any(|test| whole.starts_with(test)) {
            continue;
        }
        walk(&trees(code), false, &mut |trees, test| {
            if test {
                return;
            }
            let (text, line) = (trees[0].to_string(), trees[0].span().start().line);
            let is = |word: &str| word.strip_suffix('*').map_or(text == word, |word| text.starts_with(word));
            let may = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
            for (_, places) in rules.iter().filter(|(word, places)| is(word) && !may(places)) {
                faults.push(format!("src/{}:{line}: `{text}` belongs to {places:?}", path.display()));
            }
        });
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_are_short() {
    for (path, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= LONGEST_FILE, "src/{}: {lines} lines, at most {LONGEST_FILE}", path.display());
    }
}

/// What the tests above rest on: that imports are found in every spelling, and only there.
#[test]
fn the_scanner_sees_code_alone() {
    const CODE: &str = r##"//! crate::no
        use crate::{a, b::{no, no::no}, c::*,};
        pub(crate) fn f(x: &crate::d::X) { let x = crate::e(x); g![crate::f] } // crate::no
        /// [`no`](crate::no) /* crate::no
        fn g<'a>(_: &'a str) { h("crate::no \" crate::no", r#"crate::no " "#, '"'); crate::g() }
        #[cfg(test)] use crate::{no, no};
        #[cfg(test)] #[path = "no"] mod t;
        #[cfg(test)] mod u { fn f() { crate::no() } use crate::no; }
        use crate::*; use super::super::i; pub(super) use super::h;"##;
    let text = |(name, line): &(String, usize)| format!("{name}{line} ");
    let found = |depth| imports(CODE, depth).iter().map(text).collect::<String>();
    assert_eq!(found(1), "a2 b2 c2 d3 e3 f3 g5 *9 super9 i9 h9 ");
    assert_eq!(found(2), "a2 b2 c2 d3 e3 f3 g5 *9 i9 ", "`super` stays in the module");
    assert_eq!(test_modules(Path::new("x/mod.rs"), CODE), ["x/t/"]);
    let root = "//! use x;\nmod a; pub use a::{b, c::D}; mod e;";
    assert_eq!(["a", "b", "D", "e"].map(|name| origin(name, root)), ["a", "a", "a", "e"]);
}

/// The table of ARCHITECTURE.md whose first column has this heading: every name there, with those beside it.
fn table(heading: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let names = |cell: &'static str| cell.split([',', ' ', '`', '–']).filter(|name| !name.is_empty());
    let lines = include_str!("../ARCHITECTURE.md").lines();
    let below = lines.skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let rows = below.map_while(|line| line.strip_prefix('|')?.strip_suffix('|')?.split_once('|'));
    let all: Vec<_> = rows.flat_map(|(a, b)| names(a).map(move |name| (name, names(b).collect()))).collect();
    assert!(!all.is_empty(), "ARCHITECTURE.md has no table of `{heading}`");
    all
}

/// The code of every file, with its path below `src/`.
fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let paths = WalkDir::new(&root).into_iter().map(|entry| entry.expect("it can be listed").into_path());
    let files = paths.filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let below = |path: &Path| path.strip_prefix(&root).expect("it is below the root").to_path_buf();
    files.map(|path| (below(&path), std::fs::read_to_string(path).expect("sources are UTF-8"))).collect()
}

/// Of `onnx/mod.rs` it is `[onnx]`, of `onnx/graph.rs` `[onnx, graph]`.
fn module(path: &Path) -> Vec<&str> {
    let parts = path.iter().map(|part| part.to_str().expect("names are UTF-8").trim_end_matches(".rs"));
    parts.filter(|part| *part != "mod").collect()
}

/// The module of a name at the crate's root, which `pub use error::{Error, Result};` may have put there.
fn origin(name: &str, root: &str) -> String {
    let root = trees(root);
    let module = root.split(|tree| is(tree, ";")).find_map(|item| {
        let path = &item[item.iter().position(|tree| is(tree, "use"))? + 1..];
        let names = TokenStream::from_iter(path.to_vec()).to_string();
        names.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == name).then_some(&path[0])
    });
    module.map_or(name.to_string(), TokenTree::to_string)
}

/// The paths of the modules that a file declares for tests alone (`#[cfg(test)] mod tests;`).
fn test_modules(path: &Path, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(&trees(code), false, &mut |trees, test| {
        if test && trees.len() > 2 && is(&trees[0], "mod") && is(&trees[2], ";") {
            found.push(format!("{}/{}/", module(path).join("/"), trees[1]));
        }
    });
    found
}

/// The names at the crate's root that a module `depth` levels below it uses, its tests apart, and their lines: what is
/// behind `crate::` or behind as many `super::`, also between braces.
fn imports(code: &str, depth: usize) -> Vec<(String, usize)> {
    let ways = [vec!["crate", ":", ":"], ["super", ":", ":"].repeat(depth)];
    let mut found = Vec::new();
    walk(&trees(code), false, &mut |trees, test| {
        let leads = |way: &&Vec<&str>| !test && way.iter().zip(trees).all(|(text, tree)| is(tree, text));
        let names = match ways.iter().find(leads).and_then(|way| trees.get(way.len())) {
            Some(TokenTree::Group(names)) => names.stream().into_iter().collect(),
            name => Vec::from_iter(name.cloned()),
        };
        let first = names.split(|tree| is(tree, ",")).filter_map(|path| path.first());
        found.extend(first.map(|name| (name.to_string(), name.span().start().line)));
    });
    found
}

fn trees(code: &str) -> Vec<TokenTree> {
    code.parse::<TokenStream>().expect("the code is Rust").into_iter().collect()
}

fn is(tree: &TokenTree, text: &str) -> bool {
    !matches!(tree, TokenTree::Group(_)) && tree.to_string() == text
}

/// Shows each token with all behind it up to the end of its brackets, and whether it is in code for tests alone.
fn walk(trees: &[TokenTree], in_test: bool, see: &mut impl FnMut(&[TokenTree], bool)) {
    let mut test = in_test;
    for at in 0..trees.len() {
        see(&trees[at..], test);
        let mut ends = is(&trees[at], ";");
        if let TokenTree::Group(group) = &trees[at] {
            // An item for tests is from `#[cfg(test)]` to the first semicolon or the end of the first braces.
            test |= group.to_string().replace(' ', "") == "[cfg(test)]";
            walk(&group.stream().into_iter().collect::<Vec<_>>(), test, see);
            ends = group.delimiter() == Delimiter::Brace;
        }
        test &= in_test || !ends;
    }
}
