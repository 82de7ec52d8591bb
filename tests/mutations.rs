//! Models that are changed at random places: no panic, no hang, no memory without bounds. `MUTATIONS` says how many of each
//! model, float and quantized; `scripts/mutations.sh` runs many.

#[allow(dead_code)]
#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The clock is for hangs alone: no sound run comes near the limit.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_MEMORY: u64 = 1 << 30;
/// What the target reads before the changes: the fixture, whether it is quantized first, the method and the metric.
const MODELS: u16 = 4;

fn mutations() -> u64 {
    std::env::var("MUTATIONS").map_or(6, |count| count.parse().expect("MUTATIONS is a number"))
}

fn bytes(random: &mut ChaCha8Rng, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Runs `body`, and says how long it took.
fn timed(what: &str, body: impl FnOnce() + std::panic::UnwindSafe) -> Duration {
    let start = Instant::now();
    assert!(catch_unwind(body).is_ok(), "{what} panics");
    let took = start.elapsed();
    assert!(took < PATIENCE, "{what} takes {took:?}");
    took
}

/// The most memory that this process has had, in bytes; 0 where the system does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

#[test]
fn changed_models_end_in_a_result_or_an_error() {
    bodies::let_guarded_panics_pass();
    for fixture in 0..MODELS {
        for changed_first in [1, 0] {
            let mut slowest = Duration::ZERO;
            for seed in 0..mutations() {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let start = [fixture, changed_first].map(u16::to_be_bytes).concat();
                let input = [start, bytes(&mut random, 64)].concat();
                let what = format!("model {fixture}, float first {changed_first}, seed {seed}");
                slowest = slowest.max(timed(&what, move || bodies::quantize(&input)));
            }
            eprintln!(
                "model {fixture}, changed first {changed_first}: slowest {slowest:?}, peak {} MB",
                peak() >> 20
            );
        }
    }
    assert!(peak() <= MOST_MEMORY, "{} bytes", peak());
}

/// Some bytes changed, or the end cut off.
fn spoiled(whole: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=random.next_u32() % 8 {
        let at = random.next_u32() as usize % bytes.len();
        match random.next_u32() % 5 {
            0 => bytes.truncate(at.max(1)),
            // What makes other numbers and lists of a text.
            2 => bytes[at] = b"0123456789-.e,[]{}\""[random.next_u32() as usize % 19],
            1 => bytes[at] ^= 1 << (random.next_u32() % 8),
            _ => bytes[at] = random.next_u32() as u8,
        }
    }
    bytes
}

#[test]
fn changed_data_end_in_a_result_or_an_error() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let read = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let images = ["rgb.png", "turned.jpg", "cmyk.jpg", "lossless.jp2", "lossy.j2k"]
        .map(|name| read(&format!("images/{name}")));
    let arrays = [
        read("digits_test.npz"),
        read("images/rgb.png.18.16.bicubic.RGB.npy"),
        b"path,label\na,1\n".to_vec(),
    ];
    let mut configs: Vec<_> =
        std::fs::read_dir(fixtures.join("fuzz/config")).unwrap().map(|entry| entry.unwrap().path()).collect();
    configs.sort();
    let configs: Vec<Vec<u8>> = configs.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for seed in 0..mutations() * 4 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (i, whole) in images.iter().enumerate() {
            let input = spoiled(whole, &mut random);
            timed(&format!("image {i}, seed {seed}"), move || bodies::images(&input));
        }
        for (i, whole) in arrays.iter().enumerate() {
            let input = spoiled(whole, &mut random);
            timed(&format!("array {i}, seed {seed}"), move || bodies::arrays(&input));
        }
        for (i, whole) in configs.iter().enumerate() {
            let input = spoiled(whole, &mut random);
            timed(&format!("configuration {i}, seed {seed}"), move || bodies::config(&input));
        }
    }
}
