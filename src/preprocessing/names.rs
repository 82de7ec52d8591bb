//! What the classes of a model are called.

use std::path::Path;

use serde_json::{Map, Value};

use super::{LARGEST_FILE, candidates, read_json};
use crate::onnx::Model;
use crate::onnx::proto::StringStringEntryProto;
use crate::prepare::Prepared;
use crate::{Error, Result, files};

/// The key of the metadata of a quantized file under which it has the names of its classes, as a JSON list.
const RECORDED_NAMES: &str = "ptq4vit.class_names";

/// The names of the classes that `config.json` beside `model` gives, in their order: `id2label` of Hugging Face, without the
/// placeholders `LABEL_0`, or `label_names` of timm; else those that the file itself records. Empty if there are none.
pub fn class_names(model: &Prepared) -> Result<Vec<String>> {
    for path in candidates(model, &["config.json"]) {
        let Ok(json) = read_json(&path) else { continue };
        let own = |key: &str| json.get(key).or_else(|| json.get("pretrained_cfg")?.get(key));
        let names = match (own("id2label"), own("label_names")) {
            (Some(Value::Object(by_id)), _) => {
                let name = |id: usize| by_id.get(&id.to_string()).and_then(Value::as_str);
                (0..by_id.len()).map_while(name).map(str::to_owned).collect()
            }
            (_, Some(Value::Array(list))) => {
                list.iter().map_while(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        let placeholders =
            names.iter().enumerate().all(|(id, name): (usize, &String)| *name == format!("LABEL_{id}"));
        if !placeholders {
            return Ok(names);
        }
    }
    match model.metadata(RECORDED_NAMES) {
        Some(json) => {
            let broken = |e| Error::model(format!("metadata `{RECORDED_NAMES}`"), e);
            serde_json::from_str(json).map_err(broken)
        }
        None => Ok(Vec::new()),
    }
}

/// Records the names of the classes in a quantized model, so that it has them wherever it is.
pub fn record_class_names(model: &mut Model, names: &[String]) {
    let entries = &mut model.proto.metadata_props;
    entries.retain(|entry| entry.key.as_deref() != Some(RECORDED_NAMES));
    if !names.is_empty() {
        let value = serde_json::to_string(names).expect("strings have a JSON form");
        entries.push(StringStringEntryProto { key: Some(RECORDED_NAMES.into()), value: Some(value) });
    }
}

/// The names in a text file, one in each line, or in a JSON file, as a list or with the key `id2label`.
pub fn read_class_names(path: &Path) -> Result<Vec<String>> {
    let bytes = files::read(path, LARGEST_FILE)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::data(path.display(), "not in UTF-8"))?;
    let names: Vec<String> = match serde_json::from_str(&text) {
        Ok(Value::Array(list)) => strings(&list),
        Ok(Value::Object(json)) => {
            in_order_of_id(json.get("id2label").and_then(Value::as_object).unwrap_or(&json))
        }
        _ => text.lines().map(|line| line.trim().to_owned()).collect(),
    };
    match names.is_empty() {
        true => Err(Error::data(path.display(), "it has no names of classes")),
        false => Ok(names),
    }
}

fn strings(list: &[Value]) -> Vec<String> {
    list.iter().map_while(Value::as_str).map(str::to_owned).collect()
}

/// The names of an object whose keys are the numbers of the classes.
fn in_order_of_id(by_id: &Map<String, Value>) -> Vec<String> {
    let name = |id: usize| by_id.get(&id.to_string()).and_then(Value::as_str);
    (0..by_id.len()).map_while(name).map(str::to_owned).collect()
}
