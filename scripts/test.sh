#!/usr/bin/env bash
# Runs the tests in an environment of its own.
#
#   bash scripts/test.sh                 everyday tier: lint, types, layers, unit, model and journey tests (under 10 minutes)
#   bash scripts/test.sh --all           also the slow and the cluster tests, and a tier on MindSpore 2.9 beside a real MindFormers 1.9
#   bash scripts/test.sh --cluster       only the tests that start several processes
#   bash scripts/test.sh --mindformers   only the tier beside MindFormers
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
    echo "== tests, in two processes"
    python -m pytest -n 2 --dist loadfile "$@"
}

over_ranks() {
    make_environment "$venvs/.venv-test" "[test,lint]"
    echo "== several processes"
    python -m pytest -m "cluster and not mindformers" --durations=15 "$@"
}

against_mindformers() {
    PATH=$plain_path
    make_environment "$venvs/.venv-mindformers" "[mindformers,peer]"
    echo "== beside MindFormers 1.9: its results against ours, and what depends on MindSpore's version on 2.9"
    python -m pytest tests/against_mindformers tests/model tests/unit/runtime tests/journeys/test_train_resume.py \
        tests/journeys/test_data_batches.py "$@"
}

case ${1:-} in
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "$0"
        ;;
    --all)
        shift
        everyday -m "not cluster and not mindformers" "$@"
        over_ranks "$@"
        against_mindformers "$@"
        ;;
    --cluster)
        shift
        over_ranks "$@"
        ;;
    --mindformers)
        shift
        against_mindformers "$@"
        ;;
    *)
        everyday -m "not slow and not cluster and not mindformers" "$@"
        ;;
esac
