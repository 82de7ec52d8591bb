//! What must not change the result of a calibration: how thorough the search is, how much memory it has, and whether
//! it was interrupted.

mod common;

use std::sync::Mutex;

use common::{calibrate, calibrated, digits_calib, fixture};
use onnx_ptq4vit::calibrate::{
    Calibration, Metric, Options, Preset, Run, Search, WeightScales, curves, values_of,
};
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::{Error, ErrorKind};

fn options(k: u8) -> Options {
    common::options(k, k)
}

#[test]
fn the_exhaustive_search_finds_the_same_scales() {
    let check = |name: &str, options: &Options| {
        let fixture = fixture(name);
        let found = [Search::Pruned, Search::Exhaustive].map(|search| {
            let run = Run { search, ..Run::default() };
            calibrate(&fixture, &digits_calib(4), options, run, &()).unwrap()
        });
        assert_eq!(found[0], found[1], "{name} {options:?}");
    };
    for export in ["ts13", "ts17", "dynamo18", "dynamo20", "tanh17", "outlier17"] {
        for k in [8, 6, 4] {
            check(&format!("digits_vit_{export}"), &options(k));
        }
    }
    for metric in [Metric::Mse, Metric::Cosine, Metric::Pearson] {
        check("digits_vit_ts17", &Options { metric, ..options(6) });
    }
    check("digits_vit_ts17", &Options { weights: WeightScales::PerChannel, ..options(8) });
    check("digits_vit_ts17", &Options::new(Preset::Base));
}

/// What a report draws is computed in f32, apart from the search on codes.
#[test]
fn curves_have_the_losses_of_the_search() {
    for (name, options) in [
        ("digits_vit_ts17", options(6)),
        ("digits_vit_outlier17", Options { bias: false, rounding: false, ..Options::new(Preset::Best) }),
    ] {
        let of = fixture(name);
        let images = digits_calib(4);
        let calibration = calibrated(&of, &images, &options);
        let found = curves(&of.model, &of.plan, &calibration, &images, 1 << 30, &()).unwrap();
        assert_eq!(found.len(), of.plan.sites.len());
        for (site, curves) in calibration.sites.iter().zip(&found) {
            let loss = curves.found.losses[0];
            // A fold of Q and K changes the columns of projections after their own search.
            if site.columns.is_none() {
                assert!((loss - site.loss).abs() <= 2e-3 * site.loss, "{}: {loss}, {}", site.name, site.loss);
            }
            let least = curves.points.iter().map(|point| point.losses[0]).fold(f64::INFINITY, f64::min);
            assert!(loss <= 1.3 * least, "{}: {loss}, and {least} by another scale", site.name);
            assert!(curves.values.counts.iter().sum::<u64>() > 0);
            assert_eq!(curves.uniform.is_some(), site.a[0].twin().is_some());
            let points = values_of(site.a[0]);
            assert!(
                points.is_sorted() && points.iter().all(|&x| site.a[0].fake_quant(x) == x),
                "{}",
                site.name
            );
        }
    }
}

/// The stages that were begun.
#[derive(Default)]
struct Stages(Mutex<Vec<String>>);

impl Progress for Stages {
    fn stage(&self, name: &str, _: u64) {
        self.0.lock().unwrap().push(name.to_string());
    }
    fn step(&self, _: &str, _: u64) {}
    fn note(&self, _: &str) {}
}

#[test]
fn any_budget_of_memory_gives_the_same_scales() {
    let fixture = fixture("digits_vit_ts17");
    let calibrate = |memory: usize| {
        let stages = Stages::default();
        let run = Run { memory, ..Run::default() };
        let found = calibrate(&fixture, &digits_calib(64), &options(8), run, &stages);
        (found, stages.0.into_inner().unwrap().len())
    };
    let (whole, stages) = calibrate(4 << 30);
    assert_eq!(stages, 2, "recorded and searched once");

    // The least budget that is not refused.
    let (mut too_small, mut enough) = (0, 1 << 30);
    let (mut divided, mut most) = (whole.as_ref().unwrap().clone(), stages);
    while enough - too_small > 16 << 10 {
        let middle = usize::midpoint(too_small, enough);
        match calibrate(middle) {
            (Ok(found), stages) => (divided, most, enough) = (found, stages, middle),
            (Err(error), _) => {
                assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
                too_small = middle;
            }
        }
    }
    assert!(most > 2, "recorded in groups");
    assert_eq!(divided, whole.unwrap());
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let fixture = fixture("digits_vit_ts17");
    let whole = calibrated(&fixture, &digits_calib(8), &options(8));

    let saved = Mutex::new(None::<Calibration>);
    let stop_after_three = |found: &Calibration| {
        *saved.lock().unwrap() = Some(found.clone());
        if found.sites.len() == 3 { Err(Error::usage("stop")) } else { Ok(()) }
    };
    let run = Run { save: &stop_after_three, ..Run::default() };
    calibrate(&fixture, &digits_calib(8), &options(8), run, &()).unwrap_err();
    let part = saved.into_inner().unwrap().unwrap();
    assert_eq!(part.sites, whole.sites[..3]);

    let searched = Mutex::new(0);
    let count = |_: &Calibration| {
        *searched.lock().unwrap() += 1;
        Ok(())
    };
    let resume = |options: &Options, resume: Calibration| {
        *searched.lock().unwrap() = 0;
        let run = Run { save: &count, resume: Some(resume), ..Run::default() };
        (calibrate(&fixture, &digits_calib(8), options, run, &()).unwrap(), *searched.lock().unwrap())
    };
    let sites = whole.sites.len();
    assert_eq!(resume(&options(8), part.clone()), (whole.clone(), sites - 3));
    assert_eq!(resume(&options(8), whole.clone()), (whole, 0), "there is nothing left to do");
    let other = Run { resume: Some(part), ..Run::default() };
    let why = calibrate(&fixture, &digits_calib(8), &options(6), other, &()).unwrap_err();
    assert_eq!(why.to_string(), "earlier calibration: it was made with other options");
}
