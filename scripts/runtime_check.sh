#!/usr/bin/env bash
# Checks the emitted files in the newest runtimes and in an old ONNX Runtime; needs target/release/onnx-ptq4vit.
# With --install alone, only makes the virtual environments that it runs in.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
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
