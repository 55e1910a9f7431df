#!/usr/bin/env bash
# Runs the tests in an environment of its own.
#
#   bash scripts/test.sh                 everyday tier: lint, types, layers, unit, model and journey tests (under 10 minutes)
#   bash scripts/test.sh --all           also the slow tests, and the tier against a real MindFormers in a second environment
#   bash scripts/test.sh --mindformers   only the tier against a real MindFormers
#   bash scripts/test.sh -k words ...    anything else goes to pytest
#
# Environments: .venv-test and .venv-mindformers beside this checkout, or under $CODELLAMA_VENVS.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
venvs=${CODELLAMA_VENVS:-.}
plain_path=$PATH

everyday() {
    make_environment "$venvs/.venv-test" "[test,lint]"
    echo "== lint, types, layers"
    ruff check .
    ruff format --check .
    mypy
    lint-imports >/dev/null || lint-imports
    echo "== tests"
    python -m pytest "$@"
}

against_mindformers() {
    PATH=$plain_path
    make_environment "$venvs/.venv-mindformers" "[mindformers,peer]"
    echo "== tests against MindFormers $(python -m pip show mindformers 2>/dev/null | sed -n 's/^Version: //p')"
    python -m pytest tests/against_mindformers -m mindformers "$@"
}

case ${1:-} in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        ;;
    --all)
        shift
        everyday -m "not mindformers" "$@"
        against_mindformers "$@"
        ;;
    --mindformers)
        shift
        against_mindformers "$@"
        ;;
    *)
        everyday -m "not slow and not mindformers" "$@"
        ;;
esac
