#!/usr/bin/env bash
# Runs one configuration on one device, as MindFormers' script of this name does.
#
#   bash run_standalone.sh CONFIG DEVICE_ID STATUS [more flags of `codellama run`]
#   bash run_standalone.sh CONFIG DEVICE_ID predict [PREDICT_DATA]
#
#   CONFIG     YAML file, relative to the current folder or to the project
#   DEVICE_ID  number of the NPU; has no meaning on a CPU
#   STATUS     train, finetune, eval or predict
#
# Works from scripts/ and from the project's folder. Paths inside CONFIG are relative to the project's folder.
# Everything printed also goes to output/log/rank_0/mindformer.log (LOG_MF_PATH moves output/log). Unlike
# MindFormers' script it waits for the end and returns the exit status of the run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")

fail() {
    echo "run_standalone.sh: $1" >&2
    sed -n '4,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

case ${1:-} in
    -h | --help)
        sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
esac
[ $# -ge 3 ] || fail "three arguments are needed, $# were given."

config=$1 device=$2 status=$3
shift 3

if [ -f "$config" ]; then
    config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
elif [ -f "$root/$config" ]; then
    config=$root/$config
else
    fail "$config does not exist, neither here nor in $root."
fi
[[ $device =~ ^[0-9]+$ ]] || fail "DEVICE_ID is a whole number, got '$device'."
case $status in
    train | finetune | eval | predict) ;;
    *) fail "STATUS is train, finetune, eval or predict, got '$status'." ;;
esac

flags=(--config "$config" --use_parallel False --run_mode "$status" --device_id "$device")
if [ "$status" = predict ] && [ $# -gt 0 ] && [[ $1 != --* ]]; then
    data=$1
    shift
    if [ -e "$data" ]; then
        data=$(cd "$(dirname "$data")" && pwd)/$(basename "$data")
    fi
    flags+=(--predict_data "$data")
fi

python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
fi

logs=${LOG_MF_PATH:-$root/output/log}
mkdir -p "$logs/rank_0"
log=$logs/rank_0/mindformer.log
echo "log: $log"

export DEVICE_ID=$device RANK_ID=0 RANK_SIZE=1
cd "$root"
"$python" -m mindformers_codellama.cli.main run "${flags[@]}" "$@" 2>&1 | tee "$log"
