#!/usr/bin/env bash
# Quantizes and checks a fixture with a released program, on one thread and on several: scripts/release_smoke.sh PROGRAM
set -euo pipefail
program=$1
fixtures="$(cd "$(dirname "$0")/.." && pwd)/fixtures"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

model="$fixtures/digits_vit_ts17.onnx"
"$program" --version
for threads in 1 4; do
    "$program" quantize "$model" --calib "$fixtures/digits_calib.npz" -o "int8.$threads.onnx" --threads "$threads" --quiet
done
cmp int8.1.onnx int8.4.onnx
"$program" check "$model" int8.4.onnx --data "$fixtures/digits_test.npz" --max-drop 1 --min-agreement 98 --quiet

# Where the library of ONNX Runtime is not there, or cannot be loaded, that is an error, not a crash.
status=0
"$program" check "$model" int8.4.onnx --data "$fixtures/digits_test.npz" --engine onnxruntime \
    --onnxruntime-library "$model" --quiet || status=$?
[[ $status -eq 2 ]] || { echo "a library that cannot be loaded: exit code $status, expected 2" >&2; exit 1; }
