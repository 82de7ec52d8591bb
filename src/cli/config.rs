//! `--config`: options from a TOML or JSON file, which those on the command line override; `--print-config`: the other way.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use onnx_ptq4vit::{Error, Result, files};
use serde_json::{Map, Value};

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// Options that say nothing of the work itself.
const NOT_KEYS: [&str; 5] = ["help", "help-all", "version", "config", "print-config"];

/// The arguments `given`, the program's name first, with those of the file that they name as `--config`.
///
/// An error names the file and the key that the command does not have, or that is of a type that no option takes.
pub(super) fn with_file(command: &Command, given: Vec<OsString>) -> Result<Vec<OsString>> {
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(&given);
    let Some((name, matches)) = lenient.as_ref().ok().and_then(ArgMatches::subcommand) else {
        return Ok(given);
    };
    let Some(path) = matches.try_get_one::<PathBuf>("config").ok().flatten() else { return Ok(given) };
    let wrong = |why: String| Error::usage(format!("--config {}: {why}", path.display()));
    let subcommand = command.find_subcommand(name).expect("it was parsed");
    let mut arguments = Vec::new();
    let mut positionals = BTreeMap::new();
    for (key, value) in options(command, name, read(path)?).map_err(wrong)? {
        let arg = find(command, subcommand, &key).ok_or_else(|| wrong(unknown(&key, name)))?;
        if matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        match subcommand.get_positionals().position(|other| other.get_id() == arg.get_id()) {
            Some(index) => drop(positionals.insert(index, texts(&key, value).map_err(wrong)?)),
            None => arguments.extend(as_arguments(arg, &key, value).map_err(wrong)?),
        }
    }
    arguments.extend(positionals.into_values().flatten().map(OsString::from));
    let at = given.iter().position(|argument| argument == name).map_or(given.len(), |at| at + 1);
    let mut all = given;
    all.splice(at..at, arguments);
    Ok(all)
}

/// The content of the file.
fn read(path: &Path) -> Result<Map<String, Value>> {
    let bytes = files::read(path, LARGEST_FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| Error::data(path.display(), e))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    match is_json {
        true => serde_json::from_str(text).map_err(|e| Error::data(path.display(), e)),
        false => toml::from_str(text).map_err(|e| {
            let line =
                e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            Error::data(path.display(), format!("line {line}: {}", e.message()))
        }),
    }
}

/// The keys of the command `name`: those of its own table, and those outside of all tables, which an own one overrides.
fn options(
    command: &Command,
    name: &str,
    file: Map<String, Value>,
) -> std::result::Result<Map<String, Value>, String> {
    let (mut found, mut own) = (Map::new(), Map::new());
    for (key, value) in file {
        match (command.find_subcommand(&key), value) {
            (Some(other), Value::Object(table)) => {
                let unknown_key = table.keys().find(|key| find(command, other, key).is_none());
                if let Some(unknown_key) = unknown_key {
                    return Err(unknown(unknown_key, other.get_name()));
                }
                if key == name {
                    own = table;
                }
            }
            (_, value) => drop(found.insert(key, value)),
        }
    }
    found.extend(own);
    Ok(found)
}

fn unknown(key: &str, command: &str) -> String {
    format!("`{key}` is no option of {command}; `{command} --help-all` lists them, without the dashes")
}

/// The argument that a key names: an option by its long name, another by its own.
fn find<'c>(command: &'c Command, subcommand: &'c Command, key: &str) -> Option<&'c Arg> {
    if NOT_KEYS.contains(&key) {
        return None;
    }
    let global = command.get_arguments().filter(|arg| arg.is_global_set());
    subcommand.get_arguments().chain(global).find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        match arg.get_long() {
            Some(long) => long == key || aliases.contains(&key),
            None => arg.get_id() == key,
        }
    })
}

fn as_arguments(arg: &Arg, key: &str, value: Value) -> std::result::Result<Vec<OsString>, String> {
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    match value {
        Value::Bool(on) if is_flag => Ok(on.then(|| format!("--{key}").into()).into_iter().collect()),
        _ if is_flag => Err(format!("`{key}`: expected true or false")),
        Value::Array(_) if !matches!(arg.get_action(), ArgAction::Append) => {
            Err(format!("`{key}`: expected one value, found several"))
        }
        value => Ok(texts(key, value)?.into_iter().map(|text| format!("--{key}={text}").into()).collect()),
    }
}

/// A value, or those of a list, as they are on the command line.
fn texts(key: &str, value: Value) -> std::result::Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::Bool(bool) => Ok(vec![bool.to_string()]),
        Value::Array(values) if values.iter().all(|value| !value.is_array() && !value.is_object()) => {
            let texts = values
                .into_iter()
                .map(|value| texts(key, value))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            Ok(texts.concat())
        }
        _ => Err(format!("`{key}`: expected a text, a number, true, false, or a list of these")),
    }
}

/// The options of the command that `matches` is of, with their defaults, as a TOML file.
pub(super) fn printed(command: &Command, matches: &ArgMatches) -> String {
    let (name, matches) = matches.subcommand().expect("a command is required");
    let subcommand = command.find_subcommand(name).expect("it was parsed");
    let global = command.get_arguments().filter(|arg| arg.is_global_set());
    let mut table = toml::Table::new();
    for arg in subcommand.get_arguments().chain(global) {
        let id = arg.get_id().as_str();
        let key = arg.get_long().unwrap_or(id);
        if NOT_KEYS.contains(&key) || !matches!(matches.try_contains_id(id), Ok(true)) {
            continue;
        }
        let raw = matches.get_raw(id).into_iter().flatten();
        let mut values: Vec<toml::Value> = raw.map(|value| typed(&value.to_string_lossy())).collect();
        let value = match arg.get_action() {
            ArgAction::SetTrue if !matches.get_flag(id) => continue,
            ArgAction::SetTrue => toml::Value::Boolean(true),
            ArgAction::Append => toml::Value::Array(values),
            _ => values.remove(0),
        };
        table.insert(key.into(), value);
    }
    let file = toml::Table::from_iter([(name.to_string(), toml::Value::Table(table))]);
    toml::to_string(&file).expect("texts and numbers can be written")
}

/// A number where the text is one, written as TOML would write it.
fn typed(text: &str) -> toml::Value {
    let number = text.parse().map(toml::Value::Integer).or(text.parse().map(toml::Value::Float));
    number
        .ok()
        .filter(|number| number.to_string() == text)
        .unwrap_or_else(|| toml::Value::String(text.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    fn merged(file: &str, extension: &str, given: &[&str]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("c.{extension}"));
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let given = ["ptq", "--config", path].iter().chain(given).map(OsString::from).collect();
        let all = with_file(&Cli::command(), given)?;
        Ok(all.into_iter().skip(3).map(|text| text.into_string().unwrap()).collect())
    }

    #[test]
    fn a_file_gives_what_the_command_line_does_not() {
        let toml = "threads = 2\n[quantize]\nmodel = 'm.onnx'\nbits = 'w6a6'\noverflow-safe = true\nno-pack = false\n\
                    exclude = ['a', 'b c']\nseed = 3\n[check]\nmax-drop = 0.5\n";
        let all = merged(toml, "toml", &["quantize", "--bits", "w4a8", "-o", "o.onnx"]).unwrap();
        assert_eq!(
            all,
            [
                "quantize",
                "--exclude=a",
                "--exclude=b c",
                "--overflow-safe",
                "--seed=3",
                "--threads=2",
                "m.onnx",
                "--bits",
                "w4a8",
                "-o",
                "o.onnx"
            ]
        );
        let json = r#"{"max-drop": 0.5, "float": "a.onnx", "quantized": "b.onnx"}"#;
        assert_eq!(
            merged(json, "json", &["check"]).unwrap(),
            ["check", "--max-drop=0.5", "a.onnx", "b.onnx"]
        );
        assert_eq!(
            merged(json, "json", &["check", "x.onnx", "y.onnx"]).unwrap(),
            ["check", "--max-drop=0.5", "x.onnx", "y.onnx"]
        );
    }

    #[test]
    fn what_a_file_may_not_say_is_named() {
        let fails = |file: &str, part: &str| {
            let error = merged(file, "toml", &["quantize"]).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        fails("max-drip = 1", "`max-drip` is no option of quantize");
        fails("[check]\nbits = 'w8a8'", "`bits` is no option of check");
        fails("[quantise]\nbits = 'w8a8'", "`quantise` is no option of quantize");
        fails("config = 'x'", "`config` is no option");
        fails("no-pack = 'yes'", "`no-pack`: expected true or false");
        fails("bits = ['w8a8', 'w6a6']", "`bits`: expected one value");
        fails("bits = 1979-05-27", "`bits`: expected a text");
        fails("bits = ", "c.toml");
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let command = Cli::command();
        let given = [
            "ptq",
            "quantize",
            "m.onnx",
            "--calib",
            "a b",
            "-o",
            "o.onnx",
            "--no-pack",
            "--exclude",
            "x",
            "--bits",
            "w6a6",
        ];
        let matches = command.clone().try_get_matches_from(given).unwrap();
        let printed = printed(&command, &matches);
        let again = merged(&printed, "toml", &["quantize"]).unwrap();
        let again =
            command.clone().try_get_matches_from(["ptq".to_string()].into_iter().chain(again)).unwrap();
        assert_eq!(super::printed(&command, &again), printed);
        for line in [
            "bits = \"w6a6\"",
            "calib-limit = 32",
            "exclude = [\"x\"]",
            "no-pack = true",
            "model = \"m.onnx\"",
        ] {
            assert!(printed.contains(line), "{line}: {printed}");
        }
    }
}
