#!/usr/bin/env bash
# Prints the section of CHANGELOG.md for VERSION, without its heading: scripts/release_notes.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."

notes=$(awk -v heading="## [$1]" '
    index($0, "## ") == 1 { inside = index($0, heading) == 1; next }
    inside { print }
' CHANGELOG.md)
[[ -n "${notes//[[:space:]]/}" ]] || { echo "CHANGELOG.md: no text under \"## [$1]\"" >&2; exit 1; }
printf '%s\n' "$notes"
