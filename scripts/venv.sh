# Sourced: `venv NAME` makes the environment target/venv-NAME with scripts/requirements-NAME.txt, anew only when that file changed.
venv() {
    local folder="target/venv-$1" wanted="scripts/requirements-$1.txt"
    cmp -s "$wanted" "$folder/installed.txt" && return
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$folder/installed.txt"
}
