//! Which sites cost the accuracy, and how a promise of accuracy is kept.

use super::{Bench, MODEL};

#[test]
fn sites_are_ranked_by_their_harm() {
    let bench = Bench::new();
    let analyze = format!("analyze @{MODEL} --calib @digits_calib.npz --calib-limit 8 --bits w3a3");
    let report = bench.json(&format!("{analyze} --data @digits_test.npz --limit 16"));
    let all = report["all"].as_f64().unwrap();
    let sites = report["sites"].as_array().unwrap();
    assert!(all > 0.0 && report["images"] == 16 && report["distance"] == "KL divergence", "{report}");
    let figures: Vec<[f64; 2]> =
        sites.iter().map(|site| ["gain", "alone"].map(|key| site[key].as_f64().unwrap())).collect();
    assert!(figures.is_sorted_by(|a, b| a[1] >= b[1]), "{figures:?}");
    // At three bits each site hurts, but none alone as much as all together.
    assert!(figures.iter().all(|[_, alone]| *alone > 0.0) && figures[0][1] < all, "{figures:?}");
    assert!(figures.iter().map(|[gain, _]| gain).sum::<f64>() > 0.0, "{figures:?}");
    // The others are then as in the float model.
    assert!(figures[figures.len() / 2][1] < all / 3.0, "{figures:?} of {all}");
    let mean = |key: &str| sites.iter().take(10).filter_map(|site| site[key].as_f64()).sum::<f64>() / 10.0;
    assert!(mean("lhs_in_8_bits") < mean("alone") && mean("rhs_in_8_bits") < mean("alone"), "{report}");
    let share: f64 = sites.iter().map(|site| site["share"].as_f64().unwrap()).sum();
    assert!((share - 100.0).abs() < 1e-6, "{share}");
    assert!(sites.iter().any(|site| site["block"] == 1 && site["kind"] == "fc2"), "{report}");

    let text = bench.accepts(&format!("{analyze} --top 3"));
    assert!(
        text.starts_with("KL divergence from the float model 0.") && text.contains("more (--top)"),
        "{text}"
    );
}

#[test]
fn the_place_where_two_models_part_is_found() {
    let bench = Bench::new();
    bench.accepts(&format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 4 -o %q.onnx"));
    let diff = format!("diff @{MODEL} %q.onnx --data @digits_test.npz");
    let report = bench.json(&format!("{diff} --below 60"));
    let values = report["values"].as_array().unwrap();
    assert!(
        values.len() > 20 && values.iter().all(|value| value["sqnr_db"].as_f64().unwrap() > 5.0),
        "{report}"
    );
    // The first value that is not the same is the first that a quantized product makes.
    assert_eq!(report["parts_at"], values[0]["name"], "{report}");
    let same = bench.accepts(&format!("diff @{MODEL} @{MODEL} --data @digits_test.npz --limit 2"));
    assert!(same.starts_with("the models do not part: all "), "{same}");
}

#[test]
fn a_promise_is_kept_with_few_sites_in_float() {
    let bench = Bench::new();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 8 --bits w3a3");
    let sites = |extra: &str| bench.json(&format!("{quantize} -o %q.onnx{extra}"))["sites"].as_u64().unwrap();
    let kl = || {
        let check = format!("check @{MODEL} %q.onnx --data @digits_test.npz");
        bench.json(&check)["classifier"]["kl"].as_f64().unwrap()
    };
    let all = sites("");
    let loss = kl();
    let most = loss / 4.0;
    let kept = sites(&format!(" --max-kl {most}"));
    assert!(kept < all && kept > 1, "{kept} of {all} sites");
    assert!(kl() < loss / 2.0, "{} of {loss}", kl());
    assert_eq!(sites(" --max-kl 100"), all, "nothing has to stay in float");
    bench.refuses(&format!("{quantize} -o %none.onnx --max-kl 0"), 4, &["with all sites but one in float"]);
}

#[test]
fn sites_are_excluded_by_pattern_kind_and_block() {
    let bench = Bench::new();
    let quantize = format!("quantize @{MODEL} --calib @digits_calib.npz --calib-limit 2 -o %q.onnx");
    let kinds = |extra: &str| bench.json(&format!("{quantize} {extra}"))["kinds"].to_string();
    assert!(!kinds("--exclude-kind fc2").contains("fc2"));
    assert!(!kinds("--exclude *fc1*").contains("fc1"));
    let blocks = kinds("--exclude-blocks 0-1");
    assert!(!blocks.contains("qkv") && blocks.contains("head"), "{blocks}");
    bench.refuses(&format!("{quantize} --exclude-kind mlp"), 2, &["no kind of site is called `mlp`"]);
    bench.refuses(&format!("{quantize} --exclude-blocks 9"), 2, &["no site lies in the blocks 9 to 9"]);
}
