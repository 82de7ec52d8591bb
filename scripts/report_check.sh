#!/usr/bin/env bash
# Opens the HTML reports in headless Chromium; needs target/release/onnx-ptq4vit. With --install alone, only installs the browser
# (by apt, if it is not there) and the virtual environment that it is driven from.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ! -x /usr/bin/chromium ]]; then
    as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }
    as_root apt-get update -qq
    as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
fi
folder=target/venv-browser wanted=scripts/requirements-browser.txt
if ! cmp -s "$wanted" "$folder/installed.txt"; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$folder/installed.txt"
fi
[[ "${1-}" == --install ]] && exit
"$folder/bin/python" scripts/report_check.py "$@"
