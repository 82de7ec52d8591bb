# Sourced: `venv NAME` makes the environment target/venv-NAME with scripts/requirements-NAME.txt, anew only when that file changed.
# It does so by uv, which takes a tenth of the time of pip and shares files among the environments.
venv() {
    local folder="target/venv-$1" wanted="scripts/requirements-$1.txt" uv=target/uv/bin/uv
    cmp -s "$wanted" "$folder/installed.txt" && return
    if [[ ! -x $uv ]]; then
        python3 -m venv target/uv
        target/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
    fi
    rm -rf "$folder"
    export UV_CACHE_DIR="$PWD/target/uv-cache"
    $uv venv --quiet --seed --python "$(command -v python3)" "$folder"
    $uv pip install --quiet --python "$folder/bin/python" -r "$wanted"
    cp "$wanted" "$folder/installed.txt"
}
