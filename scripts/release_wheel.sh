#!/usr/bin/env bash
# Builds the Python wheel for TARGET, or with `sdist` the source distribution, into target/dist, and tries it in an environment of its
# own with NumPy alone. maturin has to be on the path; a target of Linux needs the Python package ziglang, too
# (scripts/requirements-release.txt), and no container: scripts/release_wheel.sh TARGET|sdist
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1
dist="$PWD/target/dist"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

# Which systems take the wheel: on Linux, those with glibc 2.17 (2014) or later.
case $target in
    *-linux-gnu) options=(--zig --compatibility manylinux2014) ;;
    *) options=(--compatibility pypi) ;;
esac
out=$(mktemp -d)
trap 'rm -rf python/LICENSE-THIRD-PARTY.txt "$out"' EXIT
# Windows may have made files of the links to the licences, which hold the name alone.
[[ -L python/LICENSE-MIT ]] || cp LICENSE-APACHE LICENSE-MIT python/
mkdir -p "$dist"
if [[ $target == sdist ]]; then
    maturin sdist --manifest-path python/Cargo.toml --out "$out"
else
    python3 scripts/licences.py python/Cargo.toml "$target" > python/LICENSE-THIRD-PARTY.txt
    rustup target add "$target"
    maturin build --release --locked --manifest-path python/Cargo.toml --target "$target" "${options[@]}" --out "$out"
fi
package=$(echo "$out"/*)
cp "$package" "$dist/"
echo "$dist/$(basename "$package")"
scripts/release_smoke_wheel.sh "$dist/$(basename "$package")"
