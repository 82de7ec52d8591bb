use ndarray::Array3;
use ndarray_npy::read_npy;
use serde_json::json;

use super::*;
use crate::data::{Anchor, Dataset, Interpolation, Selection};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

#[track_caller]
fn parsed(json: Value, size: Option<[u32; 2]>) -> (Preprocess, Vec<String>) {
    let Value::Object(json) = json else { panic!("{json} is no object") };
    parse(&json, size, Color::Rgb).unwrap().expect("it says how images are prepared")
}

#[track_caller]
fn refused(json: Value) -> String {
    let Value::Object(json) = json else { panic!("{json} is no object") };
    parse(&json, None, Color::Rgb).unwrap_err()
}

/// Each folder has a configuration as the hubs have them, and what the library of that configuration makes of an image.
#[test]
fn configurations_mean_what_their_libraries_make_of_them() {
    let image = fixtures().join("images/rgb.png");
    let mut count = 0;
    for folder in std::fs::read_dir(fixtures().join("preprocessing")).unwrap() {
        let folder = folder.unwrap().path();
        let file = FILES.iter().map(|name| folder.join(name)).find(|path| path.exists()).unwrap();
        let (preprocess, notes) = parsed(Value::Object(read_json(&file).unwrap()), None);
        assert_eq!(notes, [""; 0], "{}", folder.display());
        preprocess.check().unwrap();
        let expected: Array3<f32> = read_npy(folder.join("expected.npy")).unwrap();
        let found = Dataset::open(&image, &preprocess, Selection::default()).unwrap().load(0).unwrap();
        assert_eq!(found.shape(), expected.shape(), "{}", folder.display());
        for ((at, found), expected) in found.indexed_iter().zip(&expected) {
            let level = match &preprocess.values {
                Values::Normalized { std, .. } => 1.0 / 255.0 / std[at.0],
                Values::Unit => 1.0 / 255.0,
                Values::Bytes => 1.0,
            };
            let levels = (found - expected).abs() / level;
            assert!(levels < 1.01, "{} {at:?}: {found}, expected {expected}", folder.display());
        }
        count += 1;
    }
    assert_eq!(count, 24);
}

#[test]
fn sizes_that_vary_become_that_of_the_model() {
    let detection = json!({"image_processor_type": "DetrImageProcessor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "size": {"shortest_edge": 800, "longest_edge": 1333}});
    let (preprocess, notes) = parsed(detection.clone(), Some([640, 800]));
    assert_eq!((preprocess.resize, preprocess.crop), (Resize::Exact([640, 800]), [640, 800]));
    assert_eq!(notes.len(), 2, "the class is not known, and sizes vary: {notes:?}");
    assert!(refused(detection).contains("--size"));
    let uncropped = json!({"image_processor_type": "CLIPImageProcessor", "do_center_crop": false, "size": {"shortest_edge": 32}});
    let (preprocess, notes) = parsed(uncropped, Some([32, 32]));
    assert_eq!((preprocess.resize, preprocess.crop, notes.len()), (Resize::Short(32), [32, 32], 1));
}

#[test]
fn nested_and_flat_files_are_read() {
    let processor = json!({"image_processor": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}},
        "processor_class": "SiglipProcessor"});
    let (preprocess, _) = parsed(processor, None);
    assert_eq!(
        (preprocess.resize, preprocess.interpolation),
        (Resize::Exact([384; 2]), Interpolation::Bicubic)
    );
    assert_eq!(preprocess.anchor, Anchor::Floor);
    let flat = json!({"input_size": [3, 288, 288], "crop_pct": 1.0, "mean": 0.5, "std": [0.5, 0.5, 0.5]});
    let (preprocess, _) = parsed(flat, None);
    assert_eq!((preprocess.resize, preprocess.crop), (Resize::Short(288), [288; 2]));
    let empty = json!({"architectures": ["ViTForImageClassification"], "image_size": 224});
    assert_eq!(parse(empty.as_object().unwrap(), None, Color::Rgb), Ok(None));
}

#[test]
fn values_that_make_no_sense_are_named() {
    for (json, part) in [
        (json!({"image_processor_type": "ViTImageProcessor", "size": "big"}), "`size` is \"big\""),
        (json!({"do_resize": true, "size": {"height": 0, "width": 4}}), "`size.height` is 0"),
        (json!({"do_resize": true, "size": {"diagonal": 4}}), "`size` is"),
        (json!({"do_resize": "yes"}), "`do_resize` is \"yes\""),
        (json!({"image_mean": [0.5, 0.4]}), "`image_mean` has 2 numbers"),
        (json!({"image_mean": ["a"], "size": 4}), "`image_mean` is"),
        (json!({"do_resize": true, "resample": 9}), "`resample` is 9"),
        (json!({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}), "`crop_pct` is 0"),
        (json!({"pretrained_cfg": {"crop_mode": "round"}}), "`crop_mode` is \"round\""),
        (json!({"pretrained_cfg": {"crop_pct": 0.0}}), "`crop_pct` is 0"),
        (json!({"pretrained_cfg": {"input_size": [3, 1e9, 4]}}), "`input_size` is"),
        (json!({"preprocess_cfg": {"resize_mode": "odd", "size": 4}}), "`resize_mode` is odd"),
        (json!({"preprocess_cfg": {}}), "--size"),
    ] {
        let why = refused(json.clone());
        assert!(why.contains(part), "{json}: {why}");
    }
}

#[test]
fn sizes_are_scaled_to_those_of_the_model() {
    let scaled = |resize, crop| {
        let mut preprocess = Preprocess { resize, ..Preprocess::timm_vit(224) };
        scale(&mut preprocess, crop);
        (preprocess.resize, preprocess.crop)
    };
    assert_eq!(scaled(Resize::Short(256), [448; 2]), (Resize::Short(512), [448; 2]));
    assert_eq!(scaled(Resize::Short(256), [448, 224]), (Resize::Cover([512, 256]), [448, 224]));
    assert_eq!(scaled(Resize::Exact([224; 2]), [384; 2]), (Resize::Exact([384; 2]), [384; 2]));
    assert_eq!(scaled(Resize::No, [32; 2]), (Resize::No, [32; 2]));
}

#[test]
fn only_values_and_colors_are_at_odds() {
    let used = Preprocess::timm_vit(224);
    let close = Values::Normalized { mean: vec![0.5005; 3], std: vec![0.5; 3] };
    let far = Values::Normalized { mean: vec![0.5; 3], std: vec![0.05; 3] };
    let with = |values| Preprocess { values, ..used.clone() };
    assert_eq!(conflict(&used, &with(close)), None);
    assert_eq!(conflict(&used, &Preprocess::timm_vit(256)), None);
    assert!(conflict(&with(far), &used).unwrap().contains("std [0.05, 0.05, 0.05], not"));
    assert!(conflict(&used, &with(Values::Bytes)).is_some());
    assert_eq!(conflict(&Preprocess { color: Color::Bgr, ..used.clone() }, &used).unwrap(), "BGR, not RGB");
}
