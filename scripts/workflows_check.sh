#!/usr/bin/env bash
# Lints the workflows, the action and the Containerfile, without the network once its environment is made. With --install alone,
# only makes the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/venv.sh
venv workflows
[[ "${1-}" == --install ]] && exit
bin=target/venv-workflows/bin
"$bin/actionlint"
"$bin/zizmor" --offline --quiet .github action.yml
"$bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
"$bin/check-jsonschema" --builtin-schema vendor.github-actions action.yml
"$bin/check-jsonschema" --builtin-schema vendor.dependabot .github/dependabot.yml
"$bin/hadolint" Containerfile
scripts/version.sh > /dev/null

# The snippets of the documentation: a workflow, a step of it, a pipeline of GitLab.
rm -rf target/snippets && mkdir -p target/snippets
awk '/^```yaml$/ { count++; inside = 1; next } /^```$/ { inside = 0 } inside { print > ("target/snippets/" count ".yml") }' \
    docs/continuous-integration.md
"$bin/check-jsonschema" --builtin-schema vendor.github-workflows target/snippets/1.yml
"$bin/check-jsonschema" --builtin-schema vendor.gitlab-ci target/snippets/3.yml
