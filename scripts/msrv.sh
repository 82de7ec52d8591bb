#!/usr/bin/env bash
# Checks the program and the Python package with the oldest Rust that Cargo.toml promises.
set -euo pipefail
cd "$(dirname "$0")/.."
oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
rustup toolchain install --profile minimal --no-self-update "$oldest"
cargo "+$oldest" check --locked
cargo "+$oldest" check --locked --manifest-path python/Cargo.toml
