#!/usr/bin/env bash
# Runs the action as GitHub would, with the program at PROGRAM: a good model, one that misses a threshold, one that is not there,
# and names that a shell or GitHub could take for code: scripts/action_check.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "${1:-target/release/onnx-ptq4vit}")
fixtures="$PWD/fixtures" action="$PWD/scripts/action.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# shellcheck disable=SC2016 # it is meant literally
name='a model; $(touch hacked) `touch hacked` & "x"'
mkdir "$name"
cp "$fixtures/digits_vit_ts17.onnx" "$name/float.onnx"

# run STATUS PASSED INPUT=VALUE…: what the action ends with and says; its files are in run/.
run() {
    local status=0 wanted=$1 passed=$2
    shift 2
    rm -rf run && mkdir run
    env "$@" INPUT_PROGRAM="$program" RUNNER_TEMP="$folder/run" GITHUB_OUTPUT="$folder/run/output" \
        GITHUB_STEP_SUMMARY="$folder/run/summary" bash "$action" > run/log 2> run/messages || status=$?
    [[ $status -eq $wanted ]] || fail "exit code $status, expected $wanted"
    grep -qx "passed=$passed" run/output || fail "passed=$passed is not among the outputs"
    [[ ! -e hacked ]] || fail "a name was run as code"
}
fail() { echo "scripts/action_check.sh: $1" >&2; tail -n 50 run/* >&2; exit 1; }
holds() { grep -qF -- "$2" "$1" || fail "$1 has no \"$2\""; }

inputs=(INPUT_FLOAT="$name/float.onnx" INPUT_QUANTIZED="$name/int8.onnx" INPUT_DATA="$fixtures/digits_test.npz")
run 0 true "${inputs[@]}" INPUT_CALIB="$fixtures/digits_calib.npz" INPUT_QUANTIZE_ARGS=$'--preset\nfast' INPUT_MAX_DROP=1 \
    INPUT_MIN_AGREEMENT=98
holds run/summary "PASS: top-1 drop"
holds run/log "::notice title=onnx-ptq4vit::PASS: top-1 drop"
holds "$(sed -n 's/^junit=//p' run/output)" 'failures="0"'

run 1 false "${inputs[@]}" INPUT_MAX_KL=0.0000001
holds run/summary "FAIL"
holds run/log "::error title=onnx-ptq4vit::FAIL"
holds "$(sed -n 's/^junit=//p' run/output)" 'failures="1"'

run 0 true "${inputs[@]}" INPUT_CHECK_ARGS=$'--limit\n20'
run 3 false "${inputs[@]}" INPUT_QUANTIZED=missing.onnx
holds run/log "::error title=onnx-ptq4vit::the models could not be compared"
holds run/messages missing.onnx
run 2 false "${inputs[@]}" INPUT_MAX_KL=--help
echo "the action passes, fails and ends as it should"
