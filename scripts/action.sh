#!/usr/bin/env bash
# What action.yml runs, with its inputs in INPUT_… and the variables of GitHub. The exit code is that of `onnx-ptq4vit check`: 1 if
# a threshold is missed. It keeps to Bash 3.2, which macOS has.
set -euo pipefail

main() {
    local folder part junit markdown
    folder=$(mktemp -d "${RUNNER_TEMP:?}/onnx-ptq4vit.XXXXXX")
    part="$folder/part.json" junit="$folder/check.xml" markdown="$folder/check.md"
    echo "junit=$junit" >> "$GITHUB_OUTPUT"

    install "$folder"
    hide_commands
    if [[ -n "${INPUT_CALIB:-}" ]]; then
        quantize || finish $? "the model could not be quantized"
    fi
    # One comparison, shown twice.
    local status=0
    check "$part" > "$markdown" || status=$?
    [[ $status -le 1 && -s "$markdown" ]] || finish "$status" "the models could not be compared"
    "$program" check --merge "$part" ${thresholds[@]+"${thresholds[@]}"} --format junit --quiet > "$junit" || true
    cat "$markdown" >> "$GITHUB_STEP_SUMMARY"
    finish "$status" "$(sed -n '1{s/^#* *//;s/\\//g;p;}' "$markdown")"
}

# Sets `program`: the one that is given, or the package from PyPI in an environment of its own.
install() {
    program="${INPUT_PROGRAM:-}"
    [[ -z "$program" ]] || return 0
    local version="${INPUT_VERSION:-}" packages bin
    [[ -n "$version" ]] || version=$("$(dirname "$0")/version.sh")
    packages=("onnx-ptq4vit==$version")
    [[ "${INPUT_ENGINE:-}" != onnxruntime ]] || packages+=(onnxruntime)
    python3 -m venv "$1/environment"
    bin="$1/environment/bin"
    [[ -d "$bin" ]] || bin="$1/environment/Scripts"
    "$bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "${packages[@]}"
    program="$bin/onnx-ptq4vit"
    export VIRTUAL_ENV="$1/environment"
}

quantize() {
    local arguments=("--calib=$INPUT_CALIB" "--output=$INPUT_QUANTIZED")
    while IFS= read -r line; do
        [[ -z "$line" ]] || arguments+=("$line")
    done <<< "${INPUT_QUANTIZE_ARGS:-}"
    "$program" quantize --quiet "${arguments[@]}" -- "$INPUT_FLOAT" >&2
}

# The Markdown goes to stdout, what `--merge` reads to the file $1.
check() {
    local arguments=("--data=$INPUT_DATA" "--engine=${INPUT_ENGINE:-builtin}" "--save=$1" --format=markdown --quiet)
    thresholds=()
    [[ -z "${INPUT_LABELS:-}" ]] || arguments+=("--labels=$INPUT_LABELS")
    local name variable
    for name in max-drop min-agreement max-kl min-cosine min-r2; do
        variable=$(echo "INPUT_$name" | tr 'a-z-' 'A-Z_')
        [[ -z "${!variable:-}" ]] || thresholds+=("--$name=${!variable}")
    done
    while IFS= read -r line; do
        [[ -z "$line" ]] || arguments+=("$line")
    done <<< "${INPUT_CHECK_ARGS:-}"
    "$program" check "${arguments[@]}" ${thresholds[@]+"${thresholds[@]}"} -- "$INPUT_FLOAT" "$INPUT_QUANTIZED"
}

# What the program prints may hold names of a model, which GitHub must not take for commands.
hide_commands() {
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    echo "::stop-commands::$token"
}

# Says the verdict, and ends with the exit code $1.
finish() {
    local kind=notice passed=true text="${2//'%'/%25}"
    [[ $1 -eq 0 ]] || kind=error passed=false
    echo "::$token::"
    echo "passed=$passed" >> "$GITHUB_OUTPUT"
    echo "::$kind title=onnx-ptq4vit::$text"
    exit "$1"
}

main
