#!/usr/bin/env bash
# Measures tokens per second over batch sizes and lengths, with the words of the ATB speed scripts or of the ATB model tests.
#
#   bash run_performance.sh --performance [WORLD_SIZE] [DEVICE_TYPE] [KNOB=VALUE ...] [flags of `codellama performance`]
#   bash run_performance.sh MODEL_TYPE performance CASE_PAIRS BATCH MODEL WEIGHTS CHIPS [flags of `codellama performance`]
#
#   WORLD_SIZE   chips that hold the model together (default 1)
#   DEVICE_TYPE  d9 or d3 (Ascend 910, 310), or cpu. Without an NPU the CPU is measured, and the files say cpu
#   KNOB         as the variables of the ATB script; each may also be set in the environment:
#                input_dir=DIR (the model: weights, or a YAML file), device_id=0, multi_batch_size=[1,4,8,16,32], multicase=1,
#                seqlen_in=128, seqlen_out=128, set_case_pair=0, seqlen_in_range=[5,11], seqlen_out_range=[5,11],
#                seqlen_in_pair=[256,256,512,1024], seqlen_out_pair=[64,256,512,1024], model_name=LLAMA2-7B
#   MODEL_TYPE   pa_fp16, pa_bf16 or pa_fp32: type of weights and products
#   CASE_PAIRS   [[in,out],...], for example [[2048,2048],[256,256]]
#   BATCH        rows, or a list [1,8]
#   DEVICE_TYPE in the environment (d9) says for which device, as above
#   MODEL        name in the results;  WEIGHTS  directory or YAML file;  CHIPS  as WORLD_SIZE
#
#   MAX_SEQ_LENGTH in the environment bounds input + output (2048; for the model tests their longest pair).
#
#   input_dir=CodeLlama-7b-hf bash scripts/run_performance.sh --performance 1 cpu multi_batch_size=[1,4] --weights int8
#   bash scripts/run_performance.sh pa_bf16 performance [[512,512],[256,256]] 1 codellama CodeLlama-7b-hf 1
#
# Flags go to `codellama performance` (--dry-run lists the cases, --output DIR). The CSV files are described in docs/performance.md.
set -euo pipefail

script=${BASH_SOURCE[0]}
usage=4,22
. "$(dirname "$script")/launch_common.sh"

knobs=(multi_batch_size multicase seqlen_in seqlen_out set_case_pair seqlen_in_range seqlen_out_range seqlen_in_pair seqlen_out_pair
    model_name device_id)

start() { # ranks, arguments of `codellama performance`
    local ranks=$1
    shift
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    local command=("$python" -m mindformers_codellama.cli.main)
    for word in "$@"; do # a dry run needs no ranks
        [ "$word" = --dry-run ] && exec "${command[@]}" performance "$@"
    done
    [ "$ranks" -eq 1 ] && exec "${command[@]}" performance "$@"
    exec "${command[@]}" launch --ranks "$ranks" "${launch_flags[@]}" -- performance "$@"
}

sweep() { # [WORLD_SIZE] [DEVICE_TYPE] [KNOB=VALUE ...] [flags]
    local ranks=1 device=cpu flags=() knob
    if [ $# -gt 0 ] && [[ $1 != *=* && $1 != --* ]]; then
        ranks=$1
        shift
        require_count WORLD_SIZE "$ranks"
    fi
    if [ $# -gt 0 ] && [[ $1 != *=* && $1 != --* ]]; then
        device=$1
        shift
        [[ $device =~ ^(d9|d3|cpu)$ ]] || fail "DEVICE_TYPE is d9, d3 or cpu, got '$device'."
    fi
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
        [[ $1 == *=* ]] || fail "unknown word '$1'; a knob is written NAME=VALUE."
        [[ " input_dir ${knobs[*]} " == *" ${1%%=*} "* ]] || fail "unknown knob '${1%%=*}'; known: input_dir ${knobs[*]}."
        declare -g "${1%%=*}=${1#*=}"
        shift
    done
    [ -n "${input_dir:-}" ] || fail "input_dir is not set: write input_dir=DIR, the folder of the weights or a YAML file."
    for knob in "${knobs[@]}"; do
        [ -n "${!knob:-}" ] && flags+=("--${knob//_/-}" "${!knob}")
    done
    start "$ranks" "$input_dir" --chip "$device" --world-size "$ranks" "${flags[@]}" "$@"
}

model_test() { # MODEL_TYPE performance CASE_PAIRS BATCH MODEL WEIGHTS CHIPS [flags]
    local type=$1
    [[ $type =~ ^pa_(fp16|bf16|fp32)$ ]] || fail "MODEL_TYPE is pa_fp16, pa_bf16 or pa_fp32, got '$type'."
    [ "${2:-}" = performance ] || fail "the test mode is performance, got '${2:-}'; other modes: scripts/modeltest/run.sh."
    [ $# -ge 7 ] || fail "seven arguments are needed, $# were given."
    local pairs=$3 batch=$4 name=$5 weights=$6 chips=$7
    shift 7
    require_count CHIPS "$chips"
    start "$chips" "$weights" --case-pairs "$pairs" --batch "$batch" --model-name "$name" --model-type "$type" \
        --chip "${DEVICE_TYPE:-d9}" --world-size "$chips" "$@"
}

case ${1:-} in
    -h | --help) explain ;;
    --performance)
        shift
        sweep "$@"
        ;;
    pa_* | fa | basic) model_test "$@" ;; # fa and basic are refused there
    *) fail "begin with --performance or with a MODEL_TYPE, got '${1:-}'." ;;
esac
