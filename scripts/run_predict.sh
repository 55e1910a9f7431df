#!/usr/bin/env bash
# Runs predict_custom.py on several devices of this machine, as MindFormers' Code Llama page has it.
#
#   bash run_predict.sh RANK_TABLE CHECKPOINT YAML MODEL_TYPE RANK_SIZE [START_RANK]
#
#   RANK_TABLE  JSON of tools/hccl_tools.py for these devices
#   CHECKPOINT  weights, whole
#   YAML        configuration with use_parallel: True and model_parallel: RANK_SIZE
#   MODEL_TYPE  registry name of the tokenizer, or a folder with tokenizer.model
#   START_RANK  first device (0): rank i is device START_RANK + i
#
# Runs ./predict_custom.py where there is one, otherwise the one beside this script. Logs are mindformers_<rank>.log in the
# current folder. Flags of `codellama launch` go into CODELLAMA_LAUNCH_FLAGS. Unlike MindFormers' script it waits for the end, stops
# all ranks when one fails, and returns the exit status.
set -euo pipefail

script=${BASH_SOURCE[0]} usage=4,10
source "$(dirname "$script")/launch_common.sh"

case ${1:-} in -h | --help) explain ;; esac
[ $# = 5 ] || [ $# = 6 ] || fail "5 or 6 arguments are needed, $# were given."
table=$1 checkpoint=$2 yaml=$3 model=$4 size=$5 start=${6:-0}
require_file "the rank table" "$table"
require_file "the configuration" "$yaml"
[ -e "$checkpoint" ] || fail "the checkpoint $checkpoint does not exist."
require_count RANK_SIZE "$size"
[[ $start =~ ^[0-9]+$ ]] || fail "START_RANK is a whole number, got '$start'."

program=./predict_custom.py
[ -f "$program" ] || program=$root/scripts/predict_custom.py
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m mindformers_codellama.cli.main launch --rank-table "$table" --devices "[$start,$((start + size))]" \
    --log-dir . --log-file 'mindformers_{rank}.log' "${launch_flags[@]}" \
    -- python "$program" --checkpoint_path "$checkpoint" --yaml_file "$yaml" --model_type "$model"
