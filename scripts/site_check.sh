#!/usr/bin/env bash
# Builds the documentation as a site into target/site, strictly, and executes what it shows: scripts/site_check.py. Needs the wheel
# that scripts/python_check.sh leaves in target/wheels-python. The tutorials that export models need PyTorch, and so an environment of
# their own; the hub that they load models from is a local cache of random weights.
# With --install alone, only makes the environments; with --build, only builds the site.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
venv site
venv pages
venv export
[[ "${1-}" == --install ]] && exit

NO_MKDOCS_2_WARNING=1 target/venv-site/bin/mkdocs build --strict
# Nothing but links may lead out of the built pages.
if grep -rnoE '<(script|img|link|iframe)[^>]* (src|href)="?https?://[^>]*' target/site --include '*.html'; then
    echo "a page of the site asks for something else" >&2
    exit 1
fi
[[ "${1-}" == --build ]] && exit

with_wheel() { "target/venv-$1/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps target/wheels-python/*.whl; }
with_wheel pages
with_wheel export
[[ -d target/hub ]] || target/venv-export/bin/python scripts/hub_cache.py target/hub > /dev/null
target/venv-pages/bin/python scripts/site_check.py --environment pages=target/venv-pages \
    --environment export=target/venv-export --hub target/hub "$@"
