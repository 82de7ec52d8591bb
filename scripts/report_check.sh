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
. scripts/venv.sh
venv browser
folder=target/venv-browser
[[ "${1-}" == --install ]] && exit
"$folder/bin/python" scripts/report_check.py "$@"
