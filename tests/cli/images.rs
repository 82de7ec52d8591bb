//! Images that are broken, that are none, and arrays that no model was trained on.

use ndarray::{Array4, ArrayD};
use onnx_ptq4vit::data::write_npy;

use super::common::fixture_path;
use super::{Bench, MODEL};

fn with_images() -> Bench {
    let bench = Bench::new();
    for i in 0..4 {
        let image = std::fs::read(fixture_path(&format!("digits_png/0{i}.png"))).unwrap();
        bench.bytes(&format!("images/{i}.png"), &image);
    }
    let jpeg = std::fs::read(fixture_path("images/turned.jpg")).unwrap();
    bench.bytes("images/short.jpg", &jpeg[..jpeg.len() - 40]);
    bench.bytes("images/text.png", b"no image");
    bench.bytes("images/notes.txt", b"");
    bench.bytes("images/more/a.txt", b"");
    bench.bytes("images/more/a.xml", b"");
    bench.bytes("images/.hidden", b"");
    bench
}

#[test]
fn broken_images_are_left_out_if_asked_and_said() {
    let bench = with_images();
    let quantize = format!("quantize @{MODEL} --calib %images -o %out.onnx");
    bench.refuses(&quantize, 3, &["short.jpg", "cut short"]);
    let said = bench.run(&format!("{quantize} --skip-bad --json"));
    let [out, err] = [said.stdout, said.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(said.status.code(), Some(0), "{err}");
    for part in ["2 of 6 images cannot be read and are left out", "short.jpg", "text.png"] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["images"], 4);
    assert!(report["warnings"][0].as_str().unwrap().starts_with("2 of 6 images"), "{report}");

    let results = bench.json(&format!("run @{MODEL} --input %images --skip-bad"));
    let names = results["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["0.png", "1.png", "2.png", "3.png"]);
    let labels = "path,label\n0.png,0\n1.png,1\n2.png,2\n3.png,3\nshort.jpg,4\ntext.png,5\n";
    bench.bytes("labels.csv", labels.as_bytes());
    let check = format!("check @{MODEL} %out.onnx --data %images --labels %labels.csv --skip-bad");
    let text = bench.accepts(&check);
    assert!(text.contains("on 4 images") && text.contains("warning: 2 of 6 images"), "{text}");

    let alone = format!("run @{MODEL} --input %images/text.png --skip-bad");
    bench.refuses(&alone, 3, &["text.png", "not an image"]);
}

#[test]
fn what_is_no_image_is_counted() {
    let bench = with_images();
    let said = bench.run(&format!("run @{MODEL} --input %images --skip-bad"));
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(err.contains("images: 3 files are no images (2 .txt, 1 .xml)"), "{err}");
    bench.refuses(&format!("run @{MODEL} --input %images/more"), 3, &["no images here", "(1 .txt, 1 .xml)"]);
}

#[test]
fn large_images_and_formats_that_are_not_read_say_what_to_do() {
    let bench = Bench::new();
    for name in ["unread.avif", "lossless.jp2", "rgb.png"] {
        bench.bytes(
            &format!("images/{name}"),
            &std::fs::read(fixture_path(&format!("images/{name}"))).unwrap(),
        );
    }
    let run = format!("run @{MODEL} --input %images");
    let said = bench.run(&run);
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(
        err.contains("1 file is no image (1 .avif), AVIF images are not read: convert them to PNG"),
        "{err}"
    );
    assert_eq!(bench.json(&run)["images"].as_array().unwrap().len(), 2);
    bench.refuses(
        &format!("{run}/unread.avif"),
        3,
        &["unread.avif: AVIF images are not read: convert it to PNG"],
    );
    let small = format!("{run}/rgb.png --max-pixels 1000");
    bench.refuses(&small, 3, &["rgb.png: 37 x 29 pixels, expected 1 to 1000; --max-pixels allows more"]);
    bench.accepts(&format!("{run}/rgb.png --max-pixels 1073"));
    let said = bench.run(&format!("{run} --max-pixels 3218 --skip-bad"));
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(
        said.status.success() && err.contains("lossless.jp2: 37 x 29 pixels, expected 1 to 1072"),
        "{err}"
    );
    bench.refuses(&format!("{run} --max-pixels 0"), 2, &["--max-pixels"]);
}

#[test]
fn arrays_that_no_model_was_trained_on_are_warned_of() {
    let bench = Bench::new();
    let array = |name: &str, value: &dyn Fn(usize) -> f32| {
        let array = Array4::from_shape_fn([4, 3, 8, 8], |(n, c, h, w)| value(n * 192 + c * 64 + h * 8 + w));
        write_npy(&bench.path(name), &ArrayD::from(array.into_dyn())).unwrap();
    };
    array("zero.npy", &|_| 0.0);
    array("constant.npy", &|_| 0.25);
    array("bytes.npy", &|i| (i * 37 % 256) as f32);
    array("fine.npy", &|i| (i * 37 % 256) as f32 / 127.5 - 1.0);
    for (name, part) in [
        ("zero.npy", Some("all zero: 0 to 0, mean 0.0000")),
        ("constant.npy", Some("all the same: 0.25 to 0.25")),
        ("bytes.npy", Some("0 to 255")),
        ("fine.npy", None),
    ] {
        let line = format!("quantize @{MODEL} --calib %{name} -o %out.onnx");
        let said = bench.run(&format!("{line} --json"));
        let [out, err] = [said.stdout, said.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let report: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|_| panic!("{name}: {err}"));
        let warned = report["warnings"].to_string();
        match part {
            Some(part) => {
                assert!(
                    err.contains("warning: ") && err.contains(part) && warned.contains(part),
                    "{err}\n{warned}"
                );
                assert!(bench.accepts(&line).contains("  warning  "));
            }
            None => assert_eq!(warned, "[]"),
        }
    }
    array("huge.npy", &|i| if i % 2 == 0 { 1e30 } else { -1e30 });
    let line = format!("quantize @{MODEL} --calib %huge.npy -o %out2.onnx");
    let said = bench.run(&line);
    let err = String::from_utf8(said.stderr).unwrap();
    assert!(
        err.contains("far larger than what models are trained on: -1e30 to 1e30") || err.contains("1000000"),
        "{err}"
    );
    assert!(said.status.code() == Some(0) || err.contains("site `"), "{err}");
}
