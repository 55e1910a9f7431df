#!/usr/bin/env bash
# Runs one configuration on this machine's part of a rank table, as MindFormers' script of this name does.
#
#   bash run_distribute.sh RANK_TABLE CONFIG [a,b] STATUS                      one machine: devices a to b-1
#   bash run_distribute.sh RANK_TABLE CONFIG [a,b] STATUS RANK_SIZE            several: ranks a to b-1 of RANK_SIZE
#   bash run_distribute.sh RANK_TABLE CONFIG [a,b] predict [RANK_SIZE] DATA    DATA is a text, a file or a folder
#
#   RANK_TABLE  JSON of tools/hccl_tools.py or tools/merge_hccl.py, the same on every machine
#   CONFIG      YAML file
#   STATUS      train, finetune, eval, predict or export
#
# More flags of `codellama run` may follow; flags of `codellama launch` go into CODELLAMA_LAUNCH_FLAGS
# ("--max-restarts 3 --dry-run"). Works from scripts/ and from the project's folder: paths given here are relative to the
# current folder (or to the project), paths inside CONFIG to the project's folder. Each rank logs to
# output/log/rank_N/mindformer.log (LOG_MF_PATH moves output/log). Unlike MindFormers' script it waits for the end, stops
# all ranks when one fails, and returns the exit status. See docs/clusters.md.
set -euo pipefail

script=${BASH_SOURCE[0]} usage=4,10
source "$(dirname "$script")/launch_common.sh"

case ${1:-} in -h | --help) explain ;; esac
words=()
while [ $# -gt 0 ] && [[ $1 != --* ]]; do
    words+=("$1")
    shift
done
count=${#words[@]}
[ "$count" -ge 4 ] && [ "$count" -le 6 ] || fail "4 to 6 arguments are needed, $count were given."
table=${words[0]} config=${words[1]} devices=${words[2]} status=${words[3]} size='' data=''

case $status in
    train | finetune | eval | export)
        [ "$count" -le 5 ] || fail "DATA is for predict alone; what to train on is said in CONFIG."
        size=${words[4]:-}
        ;;
    predict)
        if [ "$count" = 6 ]; then
            size=${words[4]} data=${words[5]}
        else
            data=${words[4]:-}
        fi
        ;;
    *) fail "STATUS is train, finetune, eval, predict or export, got '$status'." ;;
esac
range='^\[[0-9]+,[0-9]+[])]$'
[[ $devices =~ $range ]] || fail "[a,b] is a range without spaces such as [0,8], got '$devices'."
[ -z "$size" ] || require_count RANK_SIZE "$size"
if [ ! -f "$config" ] && [ -f "$root/$config" ]; then
    config=$root/$config
fi
require_file "the rank table" "$table"
require_file "the configuration" "$config"

flags=(--rank-table "$(absolute "$table")" --devices "$devices")
[ -z "$size" ] || flags+=(--rank-size "$size")
order=(run --config "$(absolute "$config")" --use_parallel True --run_mode "$status")
if [ -n "$data" ]; then
    [ ! -e "$data" ] || data=$(absolute "$data")
    order+=(--predict_data "$data")
fi
logs=$(absolute "${LOG_MF_PATH:-$root/output/log}")

cd "$root"
exec "$python" -m mindformers_codellama.cli.main launch "${flags[@]}" --log-dir "$logs" "${launch_flags[@]}" -- "${order[@]}" "$@"
