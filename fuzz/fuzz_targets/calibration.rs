//! The text of a calibration file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_ptq4vit::calibrate::Calibration;

fuzz_target!(|text: &[u8]| {
    if let Ok(calibration) = Calibration::from_json(text) {
        let written = serde_json::to_vec(&calibration).expect("plain data has a JSON form");
        assert_eq!(Calibration::from_json(&written).expect("our own text"), calibration);
    }
});
