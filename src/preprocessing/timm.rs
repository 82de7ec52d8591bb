//! `config.json` of a timm model and `open_clip_config.json`: how their evaluation transforms prepare images.

use serde_json::{Map, Value};

use super::{Fields, IMAGENET, OPENAI, pixels};
use crate::data::{Anchor, Color, Interpolation, Preprocess, Resize, Values};

/// Whether a file is such a configuration by itself.
pub(super) fn is_config(json: &Map<String, Value>) -> bool {
    ["input_size", "crop_pct"].iter().any(|key| json.contains_key(*key))
        || (json.contains_key("mean") && json.contains_key("std"))
}

/// The evaluation transform of timm (`transforms_imagenet_eval`) for the `pretrained_cfg` in `json`.
pub(super) fn parse(
    json: &Map<String, Value>,
    size: Option<[u32; 2]>,
    color: Color,
) -> Result<(Preprocess, Vec<String>), String> {
    let fields = Fields(json);
    let crop = match (size, fields.get("input_size")) {
        (Some(size), _) => size,
        (None, Some(Value::Array(sides))) if sides.len() == 3 => {
            [pixels("input_size", &sides[1])?, pixels("input_size", &sides[2])?]
        }
        (None, Some(value)) => {
            return Err(format!("`input_size` is {value}, expected channels, height and width"));
        }
        (None, None) => [224; 2],
    };
    let share = fields.number("crop_pct", 0.875)?;
    if !(0.05..=2.0).contains(&share) {
        return Err(format!("`crop_pct` is {share}, expected 0.05 to 2"));
    }
    let scaled = crop.map(|side| (f64::from(side) / share).floor() as u32);
    let mean = fields.per_channel("mean", &IMAGENET[0], color.channels())?;
    let std = fields.per_channel("std", &IMAGENET[1], color.channels())?;
    let mode = fields.get("crop_mode").map_or(Ok("center"), |mode| mode.as_str().ok_or(mode));
    let (resize, fill) = match mode {
        Ok("squash") => (Resize::Exact(scaled), Vec::new()),
        Ok("border") => (Resize::Inside(scaled), filled(&mean)),
        Ok("center") => (covering(scaled), Vec::new()),
        _ => return Err(format!("`crop_mode` is {}, expected center, squash or border", json["crop_mode"])),
    };
    let interpolation = interpolation(&fields)?;
    let values = Values::Normalized { mean, std };
    Ok((Preprocess { resize, crop, anchor: Anchor::Even, fill, color, values, interpolation }, Vec::new()))
}

/// The evaluation transform of `open_clip` (`image_transform`) for its `preprocess_cfg`.
pub(super) fn parse_open_clip(
    json: &Map<String, Value>,
    vision: Option<&Map<String, Value>>,
    size: Option<[u32; 2]>,
    color: Color,
) -> Result<(Preprocess, Vec<String>), String> {
    let fields = Fields(json);
    let stated = fields.get("size").or_else(|| vision.and_then(|vision| vision.get("image_size")));
    let crop = match (size, stated) {
        (Some(size), _) => size,
        (None, Some(Value::Array(sides))) if sides.len() == 2 => {
            [pixels("size", &sides[0])?, pixels("size", &sides[1])?]
        }
        (None, Some(value)) => [pixels("size", value)?; 2],
        (None, None) => return Err("it leaves the size of images open: give --size".into()),
    };
    let mean = fields.per_channel("mean", &OPENAI[0], color.channels())?;
    let std = fields.per_channel("std", &OPENAI[1], color.channels())?;
    let (resize, fill) = match fields.get("resize_mode").and_then(Value::as_str).unwrap_or("shortest") {
        "shortest" => (covering(crop), Vec::new()),
        "squash" => (Resize::Exact(crop), Vec::new()),
        "longest" => {
            let fill = fields.number("fill_color", 0.0)?.clamp(0.0, 255.0) as u8;
            (Resize::Inside(crop), vec![fill; color.channels()])
        }
        other => return Err(format!("`resize_mode` is {other}, expected shortest, longest or squash")),
    };
    let interpolation = interpolation(&fields)?;
    let values = Values::Normalized { mean, std };
    Ok((Preprocess { resize, crop, anchor: Anchor::Even, fill, color, values, interpolation }, Vec::new()))
}

fn covering(sides: [u32; 2]) -> Resize {
    if sides[0] == sides[1] { Resize::Short(sides[0]) } else { Resize::Cover(sides) }
}

/// The color that is zero after the normalization.
fn filled(mean: &[f32]) -> Vec<u8> {
    mean.iter().map(|mean| (255.0 * f64::from(*mean)).round_ties_even().clamp(0.0, 255.0) as u8).collect()
}

fn interpolation(fields: &Fields) -> Result<Interpolation, String> {
    match fields.get("interpolation").map(|value| (value, value.as_str())) {
        None | Some((_, Some("random"))) => Ok(Interpolation::Bicubic),
        Some((value, name)) => name
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| format!("`interpolation` is {value}, expected the name of a filter of Pillow")),
    }
}
