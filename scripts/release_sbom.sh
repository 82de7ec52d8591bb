#!/usr/bin/env bash
# Writes the program's bill of materials (CycloneDX), for all targets, into target/dist. Needs the network for the tool, once.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(scripts/version.sh)
cyclonedx=0.5.9

export PATH="$PWD/target/tools/bin:$PATH"
if [[ "$(cargo cyclonedx --version 2> /dev/null || true)" != *" $cyclonedx" ]]; then
    # Unoptimized: it compiles in half of the time, and has little to do.
    cargo install cargo-cyclonedx --debug --locked --version "$cyclonedx" --root target/tools
fi

# The tool writes beside the manifest, and names this folder, which says nothing to others.
bill="onnx-ptq4vit-$version.cdx"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) cargo cyclonedx --format json --spec-version 1.5 --target all --override-filename "$bill"
mkdir -p target/dist
sed "s|file://$PWD|file:///onnx-ptq4vit|g" "$bill.json" > "target/dist/$bill.json"
rm "$bill.json"
echo "target/dist/$bill.json"
