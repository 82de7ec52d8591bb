//! `preprocessor_config.json`: the image processors of Hugging Face's transformers (read as version 5.24 does it).

use serde_json::{Map, Value};

use super::{Fields, IMAGENET, OPENAI, pixels};
use crate::data::{Anchor, Color, Interpolation, Preprocess, Resize, Values};

const HALF: [[f32; 3]; 2] = [[0.5; 3]; 2];

/// What a processor does where its file is silent.
struct Kind {
    /// A size of one number is that of both sides, else that of the short one.
    square: bool,
    size: u32,
    crops: bool,
    crop: u32,
    normalizes: bool,
    constants: [[f32; 3]; 2],
    interpolation: Interpolation,
}

/// By the name of its class, without `ImageProcessor` and what may follow.
fn kind(name: &str) -> Option<Kind> {
    use Interpolation::{Bicubic, Bilinear};
    let squashes = |constants, interpolation| Kind {
        square: true,
        size: 224,
        crops: false,
        crop: 224,
        normalizes: true,
        constants,
        interpolation,
    };
    let crops = |constants| Kind { square: false, crops: true, ..squashes(constants, Bicubic) };
    Some(match name {
        "ViT" => squashes(HALF, Bilinear),
        "Beit" | "Siglip" => squashes(HALF, Bicubic),
        "DeiT" => Kind { size: 256, crops: true, ..squashes(HALF, Bicubic) },
        "Pvt" => squashes(IMAGENET, Bicubic),
        "DINOv3ViT" => squashes(IMAGENET, Bilinear),
        "Segformer" => Kind { size: 512, ..squashes(IMAGENET, Bilinear) },
        "DPT" => Kind { size: 384, ..squashes(HALF, Bicubic) },
        "EfficientNet" => Kind { size: 346, crop: 289, ..squashes(HALF, Bicubic) },
        "CLIP" | "Bit" => crops(OPENAI),
        "Levit" | "PoolFormer" => crops(IMAGENET),
        "ConvNext" => Kind { size: 384, crops: false, ..crops(HALF) },
        "MobileViT" => Kind { crop: 256, normalizes: false, ..crops(HALF) },
        _ => return None,
    })
}

/// The name of the class, in the forms that versions of transformers write.
fn class(json: &Map<String, Value>) -> Option<&str> {
    let name =
        ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| json.get(*key)?.as_str())?;
    let name = ["Pil", "Fast"].iter().fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
    ["ImageProcessor", "FeatureExtractor"].iter().find_map(|end| name.strip_suffix(end)).or(Some(name))
}

/// Whether a file says what an image processor does.
pub(super) fn is_processor(json: &Map<String, Value>) -> bool {
    const KEYS: [&str; 6] =
        ["image_processor_type", "image_mean", "do_resize", "do_normalize", "do_rescale", "do_center_crop"];
    KEYS.iter().any(|key| json.contains_key(*key))
}

/// What `size` and `crop_size` say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    Short(u32),
    Exact([u32; 2]),
    /// Another one for each image.
    Varies,
}

impl Size {
    fn of(key: &str, value: &Value, square: bool) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{key}` is {value}, expected a number of pixels, or height and width, or the shortest edge"
            )
        };
        let one = |side: u32| if square { Self::Exact([side; 2]) } else { Self::Short(side) };
        match value {
            Value::Array(sides) => match &sides[..] {
                [height, width] => Ok(Self::Exact([pixels(key, height)?, pixels(key, width)?])),
                _ => Err(wrong()),
            },
            Value::Object(sides) => {
                let side = |name: &str| {
                    let side = sides.get(name).filter(|side| !side.is_null());
                    side.map(|side| pixels(&format!("{key}.{name}"), side)).transpose()
                };
                match (side("height")?, side("width")?, side("shortest_edge")?, side("longest_edge")?) {
                    (Some(height), Some(width), ..) => Ok(Self::Exact([height, width])),
                    (_, _, Some(short), None) => Ok(Self::Short(short)),
                    (_, _, _, Some(_)) => Ok(Self::Varies),
                    _ if sides.contains_key("max_height") => Ok(Self::Varies),
                    _ => Err(wrong()),
                }
            }
            number => pixels(key, number).map(one),
        }
    }
}

/// The steps that the file says, and what had to be read in another way than it is written.
pub(super) fn parse(
    json: &Map<String, Value>,
    size: Option<[u32; 2]>,
    color: Color,
) -> Result<(Preprocess, Vec<String>), String> {
    let fields = Fields(json);
    let mut notes = Vec::new();
    let name = class(json).unwrap_or("ViT");
    let kind = kind(name).unwrap_or_else(|| {
        notes.push(format!("the image processor {name} is not known, and taken to be like that of ViT"));
        Kind { square: true, ..kind("ViT").expect("it is in the table") }
    });

    let resizes = fields.flag("do_resize", true)?;
    let given = match fields.get("size") {
        Some(value) => Size::of("size", value, kind.square)?,
        None if kind.square => Size::Exact([kind.size; 2]),
        None => Size::Short(kind.size),
    };
    let crops = fields.flag("do_center_crop", kind.crops)?;
    let crop = match fields.get("crop_size").map(|value| Size::of("crop_size", value, true)).transpose()? {
        Some(Size::Exact(sides)) => sides,
        Some(Size::Short(side)) => [side; 2],
        Some(Size::Varies) | None => [kind.crop; 2],
    };
    let share = match (name, fields.get("crop_pct")) {
        ("ConvNext", _) => Some(fields.number("crop_pct", 224.0 / 256.0)?),
        ("PoolFormer", _) if json.get("crop_pct") != Some(&Value::Null) => {
            Some(fields.number("crop_pct", 0.9)?)
        }
        _ => None,
    };
    if share.is_some_and(|share| !(0.05..=1.0).contains(&share)) {
        return Err(format!("`crop_pct` is {}, expected 0.05 to 1", share.unwrap_or_default()));
    }
    // What a processor makes of a side before it is cropped.
    let enlarged = |side: u32| match (name, share) {
        ("Levit", _) => (256.0 / 224.0 * f64::from(side)) as u32,
        (_, Some(share)) => (f64::from(side) / share) as u32,
        _ => side,
    };
    let varies = given == Size::Varies || fields.flag("keep_aspect_ratio", false)?;
    let (resize, out) = match (name, given) {
        _ if !resizes => (Resize::No, crops.then_some(crop)),
        _ if varies => (Resize::Exact([kind.size; 2]), None),
        ("ConvNext", Size::Short(side)) if side < 384 => (Resize::Short(enlarged(side)), Some([side; 2])),
        ("ConvNext", Size::Short(side)) => (Resize::Exact([side; 2]), Some([side; 2])),
        ("PoolFormer", Size::Exact([side, other])) if side == other && share.is_some() => {
            (Resize::Short(enlarged(side)), Some(crop))
        }
        (_, Size::Exact(sides)) => {
            let sides = if name == "PoolFormer" { sides.map(enlarged) } else { sides };
            (Resize::Exact(sides), Some(if crops { crop } else { sides }))
        }
        (_, Size::Short(side)) => (Resize::Short(enlarged(side)), crops.then_some(crop)),
        (_, Size::Varies) => (Resize::No, None),
    };
    let (resize, crop) = match (out, size) {
        (Some(crop), _) => (resize, crop),
        (None, Some(size)) if resizes && varies => {
            notes.push("it makes another size of each image; they are resized to that of the model".into());
            (Resize::Exact(size), size)
        }
        (None, Some(size)) => {
            notes.push("it crops no image, and the model takes one size: the centre is taken".into());
            (resize, size)
        }
        (None, None) => return Err("it leaves the size of images open: give --size".into()),
    };

    let color = match color {
        Color::Rgb if fields.flag("do_flip_channel_order", name == "MobileViT")? => Color::Bgr,
        color => color,
    };
    Ok((
        Preprocess {
            resize,
            crop,
            anchor: Anchor::Floor,
            fill: Vec::new(),
            color,
            values: values(&fields, name, &kind, color.channels())?,
            interpolation: interpolation(&fields, kind.interpolation)?,
        },
        notes,
    ))
}

fn interpolation(fields: &Fields, default: Interpolation) -> Result<Interpolation, String> {
    let Some(value) = fields.get("resample") else { return Ok(default) };
    let named = value.as_str().and_then(|name| name.to_lowercase().parse().ok());
    let numbered = || Interpolation::OF_PILLOW.get(usize::try_from(value.as_u64()?).ok()?).copied();
    named
        .or_else(numbered)
        .ok_or_else(|| format!("`resample` is {value}, expected a filter of Pillow, 0 to 5"))
}

/// `(x·factor + offset − mean)/std`, in the terms of `x/255`.
fn values(fields: &Fields, name: &str, kind: &Kind, channels: usize) -> Result<Values, String> {
    let rescales = fields.flag("do_rescale", true)?;
    let normalizes = fields.flag("do_normalize", kind.normalizes)?;
    let factor = if rescales { fields.number("rescale_factor", 1.0 / 255.0)? } else { 1.0 };
    let offset = if rescales && fields.flag("rescale_offset", false)? { -1.0 } else { 0.0 };
    let is_unit = (factor * 255.0 - 1.0).abs() < 1e-5;
    match (normalizes, is_unit, offset == 0.0) {
        (false, true, true) => return Ok(Values::Unit),
        (false, _, true) if factor == 1.0 => return Ok(Values::Bytes),
        _ => {}
    }
    let [mean, std] = kind.constants;
    let mut mean = fields.per_channel("image_mean", &mean, channels)?;
    let mut std = fields.per_channel("image_std", &std, channels)?;
    let again = normalizes && name == "EfficientNet" && fields.flag("include_top", true)?;
    if !normalizes {
        (mean, std) = (vec![0.0; channels], vec![1.0; channels]);
    }
    if is_unit && offset == 0.0 && !again {
        return Ok(Values::Normalized { mean, std });
    }
    let scale = 255.0 * factor;
    for (mean, std) in mean.iter_mut().zip(&mut std) {
        let before = if again { *std * *std } else { *std };
        *mean = ((f64::from(*mean) - offset) / scale) as f32;
        *std = (f64::from(before) / scale) as f32;
    }
    Ok(Values::Normalized { mean, std })
}
