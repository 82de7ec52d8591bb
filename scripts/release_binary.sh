#!/usr/bin/env bash
# Builds the program for TARGET, tries it, and packs it with its licences and manual: target/dist/onnx-ptq4vit-VERSION-TARGET.tar.gz
# (or .zip). A target of musl needs musl-gcc (the package musl-tools); the machine must be able to run what it builds:
# scripts/release_binary.sh TARGET
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
version=$(scripts/version.sh)
built="${CARGO_TARGET_DIR:-$PWD/target}"
dist=target/dist
name="onnx-ptq4vit-$version-$target"
program="$built/$target/release/onnx-ptq4vit" archive="$dist/$name.tar.gz"

case $target in
    *-windows-*)
        program+=.exe archive="$dist/$name.zip"
        # Else it asks for Microsoft's redistributable.
        export RUSTFLAGS="-C target-feature=+crt-static" ;;
    *-musl)
        command -v musl-gcc > /dev/null || { echo "musl-gcc is not there: install the package musl-tools" >&2; exit 1; } ;;
esac

rustup target add "$target"
cargo build --release --locked --target "$target"
if [[ $target == *-musl && "$(readelf --dynamic "$program")" == *NEEDED* ]]; then
    echo "$program is not static" >&2
    exit 1
fi
scripts/release_smoke.sh "$program"

rm -rf "${dist:?}/$name" "$archive"
mkdir -p "$dist/$name"
cp "$program" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$dist/$name"
"$program" manual "$dist/$name/manual" --completions bash --completions fish --completions powershell --completions zsh > /dev/null
python3 scripts/licences.py Cargo.toml "$target" > "$dist/$name/LICENSE-THIRD-PARTY.txt"
python3 scripts/archive.py "$dist/$name" "$archive"
rm -rf "${dist:?}/$name"
echo "$archive"
