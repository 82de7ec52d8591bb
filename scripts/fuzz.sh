#!/usr/bin/env bash
# Runs every fuzz target (or FUZZ_TARGETS) for SECONDS (1200), FUZZ_JOBS (2) at a time, from the seeds of fixtures/. An input
# may take FUZZ_TIMEOUT (10) seconds. Needs cargo-fuzz; on a stable toolchain RUSTC_BOOTSTRAP=1 lets it instrument the code.
# Crashes land in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1
seconds="${1:-1200}"
all="decode plan import calibration quantize images arrays config"
targets="${FUZZ_TARGETS:-$all}"

for target in $all; do
    mkdir -p "fuzz/corpus/$target" "fixtures/fuzz/$target"
    cp -n "fixtures/fuzz/$target"/* "fuzz/corpus/$target/" 2>/dev/null || true
done
for target in decode plan import; do
    for seed in fixtures/*.onnx; do cp -n "$seed" "fuzz/corpus/$target/"; done
    for seed in fixtures/zoo/*.onnx.gz; do
        name="$(basename "$seed" .gz)"
        [ -e "fuzz/corpus/$target/$name" ] || gunzip -c "$seed" > "fuzz/corpus/$target/$name"
    done
done
cp -n fixtures/images/*.png fixtures/images/*.jpg fixtures/digits_png/00.png fuzz/corpus/images/
cp -n fixtures/*.npz fixtures/images/rgb*.npy fuzz/corpus/arrays/
printf 'path,label\na,1\n' > fuzz/corpus/arrays/list.csv
if ! ls fuzz/corpus/calibration/*.json > /dev/null 2>&1 || ! ls fuzz/corpus/plan/quantized* > /dev/null 2>&1; then
    for model in ts17 dynamo20; do
        target/release/onnx-ptq4vit quantize "fixtures/digits_vit_$model.onnx" --calib fixtures/digits_calib.npz --calib-limit 4 \
            --checkpoint "fuzz/corpus/calibration/$model.json" -o "fuzz/corpus/plan/quantized_$model.onnx"
        cp "fuzz/corpus/plan/quantized_$model.onnx" fuzz/corpus/import/
    done
fi

run() {
    cargo fuzz run -s none ${FUZZ_TARGET_DIR:+--target-dir "$FUZZ_TARGET_DIR"} "$1" -- -max_total_time="$seconds" -timeout="${FUZZ_TIMEOUT:-10}" \
        -rss_limit_mb=2048 -max_len=400000 -print_final_stats=1 > "fuzz/$1.log" 2>&1 || echo "$1 failed: see fuzz/$1.log"
    grep -E "stat::|DONE" "fuzz/$1.log" | sed "s/^/$1: /"
}
export -f run
export seconds
echo $targets | tr ' ' '\n' | xargs -P "${FUZZ_JOBS:-2}" -I {} bash -c 'run {}'
