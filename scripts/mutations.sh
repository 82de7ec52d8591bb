#!/usr/bin/env bash
# Changes every small model COUNT (2000) times, float and quantized, and reads, quantizes and runs each: see tests/mutations.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
# A change that takes more memory than this is a failure, and must not be one of the whole machine.
ulimit -v 8000000
MUTATIONS="${1:-2000}" cargo test --release --test mutations -- --nocapture
