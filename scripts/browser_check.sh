#!/usr/bin/env bash
# Runs quantized files in onnxruntime-web in headless Chromium; needs target/release/onnx-ptq4vit, and npm. With --install alone,
# only installs Chromium, the virtual environment and the package.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/report_check.sh --install
target/venv-browser/bin/python scripts/browser_check.py "$@"
