#!/usr/bin/env bash
# Checks the emitted files in the newest runtimes and in an old ONNX Runtime; needs target/release/onnx-ptq4vit.
# With --install alone, only makes the virtual environments that it runs in.
set -euo pipefail
cd "$(dirname "$0")/.."

# venv NAME: target/venv-NAME with scripts/requirements-NAME.txt, made anew only when that file changed.
venv() {
    local folder="target/venv-$1" wanted="scripts/requirements-$1.txt"
    cmp -s "$wanted" "$folder/installed.txt" && return
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$folder/installed.txt"
}

venv runtimes
venv ort120
[[ "${1-}" == --install ]] && exit

# Side by side: much of each is on one core.
target/venv-ort120/bin/python scripts/runtime_check.py --runtimes onnxruntime --no-zoo \
    --work target/runtime-check-old "$@" > target/runtime-check-old.log 2>&1 &
old=$!
target/venv-runtimes/bin/python scripts/runtime_check.py --runtimes onnxruntime,openvino "$@"
status=0
wait "$old" || status=$?
cat target/runtime-check-old.log
exit "$status"
