#!/usr/bin/env bash
# Publishes the crate on crates.io, unless its version is there: the first one has to be published by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(scripts/version.sh)
if cargo info --quiet --registry crates-io "onnx-ptq4vit@$version" > /dev/null 2>&1; then
    echo "onnx-ptq4vit $version is on crates.io"
else
    # What is packed was built and tested before: `cargo package` in the workflow.
    cargo publish --locked --no-verify "$@"
fi
