#!/usr/bin/env bash
# Runs exported graphs as ranks of this machine, as MindFormers' Code Llama page has it: one process for each rank, logs rank_N.log.
#
#   bash run_lite.sh MINDIR_DIR [FLAGS of run_infer_main.py]
#
#   MINDIR_DIR  export directory, with mindir_full_checkpoint/, mindir_inc_checkpoint/ and export/manifest.json
#   FLAGS       for example --predict_data "def bubble_sort(arr):\n" --generated_time 3 --engine lite --config_path lite.ini
#
# START_DEVICE_ID (0) is the device of rank 0: rank i runs on device START_DEVICE_ID + i. There are as many ranks as were
# exported. Unless FLAGS say otherwise: --do_sample False, --is_sample_acceleration False, --add_special_tokens True and the
# page's prompt. On a machine without Ascend the engine graph runs all of it on the CPU. Logs go to the current folder; rank 0
# is shown too. Flags of `codellama launch` go into CODELLAMA_LAUNCH_FLAGS. Unlike the page's script it waits for the end, stops
# all ranks when one fails or on Ctrl-C, and returns the exit status. The page's own script works as it is printed, too: see
# docs/lite.md. Not run on Ascend.
set -euo pipefail

script=${BASH_SOURCE[0]} usage=4,7
source "$(dirname "$script")/launch_common.sh"

case ${1:-} in -h | --help) explain ;; esac
[ $# -ge 1 ] || fail "the export directory is missing."
folder=$1 start=${START_DEVICE_ID:-0}
shift
require_file "the manifest of the export directory" "$folder/export/manifest.json"
[[ $start =~ ^[0-9]+$ ]] || fail "START_DEVICE_ID is a whole number, got '$start'."
ranks=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["world_size"])' "$folder/export/manifest.json" 2>/dev/null) ||
    fail "$folder/export/manifest.json is damaged."

flags=("$@") engine=graph ini='' prompt='def bubble_sort(arr):\n'
while [ $# -gt 0 ]; do
    case $1 in
        --engine) engine=${2:-} ;;
        --engine=*) engine=${1#*=} ;;
        --config_path | --config-path) ini=${2:-} ;;
        --config_path=* | --config-path=*) ini=${1#*=} ;;
        --predict_data | --predict-data | --predict_data=* | --predict-data=*) prompt='' ;;
    esac
    shift
done
[ -z "$prompt" ] || flags+=(--predict_data "$prompt")

place=(--devices "[$start,$((start + ranks))]")
if [ "$engine" = lite ]; then
    # HCCL brings the ranks together, by the rank table that lite.ini names
    ini=${ini%%,*}
    table=$(sed -n 's/^[[:space:]]*rank_table_file[[:space:]]*=[[:space:]]*//; T; s/[[:space:]]*$//p' "$ini" 2>/dev/null | head -1 || true)
    if [ -n "$table" ]; then
        # as codellama infer finds it: from the current folder, else from the folder of lite.ini
        [ -f "$table" ] || [ ! -f "$(dirname "$ini")/$table" ] || table=$(dirname "$ini")/$table
        place+=(--rank-table "$table" --device-target Ascend)
    else
        place+=(--device-target CPU) # one rank, which joins nobody
    fi
fi

for ((i = 0; i < ranks; i++)); do
    printf 'run model %s on rank:%s,device %s...\n' "$i" "$i" "$((start + i))"
done
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m mindformers_codellama.cli.main launch "${place[@]}" --log-dir . --log-file 'rank_{rank}.log' "${launch_flags[@]}" \
    -- infer --model_dir "$folder" --distributed True --do_sample False --is_sample_acceleration False --add_special_tokens True "${flags[@]}"
