#!/usr/bin/env bash
# Builds the Python package, installs it into an environment of its own, and runs its tests and mypy there; arguments go to pytest.
# The tests of `export` need PyTorch, and so run in an environment of their own, which the documentation is executed in, too.
# With --install alone, only makes the environments.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
venv python
venv export
folder=target/venv-python
[[ "${1-}" == --install ]] && exit

# The dependencies that the crate at the root has compiled serve this one, too.
export CARGO_TARGET_DIR="$PWD/target" PYO3_PYTHON="$PWD/$folder/bin/python"
rm -rf target/wheels-python
"$folder/bin/maturin" build --release --locked --quiet --manifest-path python/Cargo.toml \
    --interpreter "$PYO3_PYTHON" --out target/wheels-python
for environment in python export; do
    "target/venv-$environment/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps target/wheels-python/*.whl
done
# From a folder beside the sources: what is tested is what the wheel holds.
cd python/tests
export PYTHONDONTWRITEBYTECODE=1
"../../$folder/bin/python" -m pytest -q -p no:cacheprovider --ignore test_export.py "$@"
../../target/venv-export/bin/python -m pytest -q -p no:cacheprovider test_export.py
"../../$folder/bin/mypy" --strict --cache-dir ../../target/mypy usage.py
"../../$folder/bin/mypy" --strict --cache-dir ../../target/mypy -p onnx_ptq4vit
