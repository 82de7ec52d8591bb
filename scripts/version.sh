#!/usr/bin/env bash
# Prints the version. It is an error if the packages differ in it, or, with a TAG such as v0.1.0, if that is another one or the
# changelog has no section for it: scripts/version.sh [TAG]
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "$1" >&2; exit 1; }
# The version that a manifest gives its package, or a lock file the package of a name.
of_manifest() { sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$1"; }
of_lock() { sed -n "/^name = \"$2\"\$/{n;s/^version = \"\(.*\)\"\$/\1/p;}" "$1"; }

version=$(of_manifest Cargo.toml)
[[ -n "$version" ]] || fail "Cargo.toml: [package] has no version"
same() { [[ "$2" == "$version" ]] || fail "$1 has version ${2:-(none)}, Cargo.toml $version: make them agree"; }
same "Cargo.lock" "$(of_lock Cargo.lock onnx-ptq4vit)"
same "python/Cargo.toml" "$(of_manifest python/Cargo.toml)"
same "python/Cargo.toml: the dependency onnx-ptq4vit" \
    "$(sed -n 's/^onnx-ptq4vit = { version = "\([^"]*\)".*/\1/p' python/Cargo.toml)"
same "python/Cargo.lock" "$(of_lock python/Cargo.lock onnx-ptq4vit-python)"
same "python/Cargo.lock: the dependency onnx-ptq4vit" "$(of_lock python/Cargo.lock onnx-ptq4vit)"

if [[ $# -gt 0 ]]; then
    [[ "$1" == "v$version" ]] || fail "the tag $1 is not v$version, the version of Cargo.toml"
    scripts/release_notes.sh "$version" > /dev/null
fi
echo "$version"
