#!/usr/bin/env bash
# Runs a program as several ranks without a rank table, with the arguments of MindFormers' script of this name.
#
#   bash msrun_launcher.sh EXECUTE_ORDER [WORKER_NUM]
#   bash msrun_launcher.sh EXECUTE_ORDER WORKER_NUM MASTER_PORT LOG_DIR JOIN TIMEOUT
#   bash msrun_launcher.sh EXECUTE_ORDER WORKER_NUM LOCAL_WORKER MASTER_ADDR MASTER_PORT NODE_RANK LOG_DIR JOIN TIMEOUT
#
#   EXECUTE_ORDER  "run_mindformer.py --config FILE --use_parallel True ...", or another Python program with its flags
#   WORKER_NUM     ranks of all machines together (8)        LOCAL_WORKER  ranks of this machine (8)
#   MASTER_ADDR    machine with rank 0 (127.0.0.1)           MASTER_PORT   port of the scheduler (8118)
#   NODE_RANK      which machine this is, from 0 (0)         LOG_DIR       worker_N.log, scheduler.log (output/msrun_log)
#   JOIN           True waits for the end and returns the exit status; False runs in the background (False)
#   TIMEOUT        seconds ranks wait for one another to join (7200)
#
# Paths are relative to the current folder; run_mindformer.py is the project's own unless there is one here. Flags of
# `codellama launch` go into CODELLAMA_LAUNCH_FLAGS. In the background its own messages are in LOG_DIR/launch.log.
set -euo pipefail

script=${BASH_SOURCE[0]} usage=4,13
source "$(dirname "$script")/launch_common.sh"

case ${1:-} in -h | --help) explain ;; esac
workers=8 local_workers=8 host=127.0.0.1 port=8118 node=0 logs=output/msrun_log join=False timeout=7200
case $# in
    1) ;;
    2) workers=$2 local_workers=$2 ;;
    6) workers=$2 local_workers=$2 port=$3 logs=$4 join=$5 timeout=$6 ;;
    9) workers=$2 local_workers=$3 host=$4 port=$5 node=$6 logs=$7 join=$8 timeout=$9 ;;
    *) fail "1, 2, 6 or 9 arguments are needed, $# were given." ;;
esac
require_count WORKER_NUM "$workers"
require_count LOCAL_WORKER "$local_workers"
require_count MASTER_PORT "$port"
require_count TIMEOUT "$timeout"
[[ $node =~ ^[0-9]+$ ]] || fail "NODE_RANK is a whole number, got '$node'."
[ $((workers % local_workers)) = 0 ] || fail "LOCAL_WORKER ($local_workers) must divide WORKER_NUM ($workers)."
nodes=$((workers / local_workers))
[ "$node" -lt "$nodes" ] || fail "NODE_RANK $node: there are $nodes machines, counted from 0."
case $join in
    True | true | False | false) ;;
    *) fail "JOIN is True or False, got '$join'." ;;
esac
declare -a order
eval "order=($1)" 2>/dev/null || fail "EXECUTE_ORDER cannot be read: $1"
[ ${#order[@]} -gt 0 ] || fail "EXECUTE_ORDER is empty."

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
launch=("$python" -m mindformers_codellama.cli.main launch --ranks "$workers" --nodes "$nodes" --node-rank "$node" --master "$host:$port"
    --timeout "$timeout" --log-dir "$logs" --log-file 'worker_{rank}.log' "${launch_flags[@]}")
case " ${launch_flags[*]} " in *" --dry-run "*) join=True ;; esac
case $join in True | true) exec "${launch[@]}" -- "${order[@]}" ;; esac

"${launch[@]}" --dry-run -- "${order[@]}" >/dev/null # what is wrong is told here, not in a log
mkdir -p "$logs"
nohup "${launch[@]}" -- "${order[@]}" >"$logs/launch.log" 2>&1 </dev/null &
echo "started in the background, process $!; \`kill $!\` stops all ranks. Messages: $logs/launch.log, ranks: $logs/worker_N.log"
