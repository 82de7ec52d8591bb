#!/usr/bin/env bash
# Installs a wheel or a source distribution into an environment of its own, and quantizes and checks a fixture from Python and by
# the program that it installs: scripts/release_smoke_wheel.sh PACKAGE
set -euo pipefail
package=$1
root="$(cd "$(dirname "$0")/.." && pwd)"
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT

python3 -m venv "$environment"
bin="$environment/bin"
[[ -d "$bin" ]] || bin="$environment/Scripts"
"$bin/python" -m pip install --quiet --disable-pip-version-check "$package"
"$root/scripts/release_smoke.sh" "$bin/onnx-ptq4vit"

cd "$environment"
"$bin/python" - "$root/fixtures" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import onnx_ptq4vit as ptq

fixtures = Path(sys.argv[1])
model = fixtures / "digits_vit_ts17.onnx"
test = np.load(fixtures / "digits_test.npz")
result = ptq.quantize(model, np.load(fixtures / "digits_calib.npz")["images"], "int8.onnx", progress=False)
check = ptq.check(model, "int8.onnx", test["images"], test["labels"], max_drop=1, min_agreement=98, progress=False)
print(f"onnx_ptq4vit {ptq.__version__}:", check)
sys.exit(not check.passed)
PYTHON
