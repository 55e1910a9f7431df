#!/usr/bin/env bash
# The ATB model tests' run.sh, with their words: accuracy on a dataset, or tokens per second.
#
#   bash run.sh MODEL_TYPE full_HumanEval BATCH MODEL [base] WEIGHTS [trust_remote_code] CHIPS [MAX_POSITIONS] [flags]
#   bash run.sh MODEL_TYPE full_MMLU|full_CEval SHOTS BATCH MODEL [base] WEIGHTS [trust_remote_code] CHIPS [MAX_POSITIONS] [flags]
#   bash run.sh MODEL_TYPE performance CASE_PAIRS BATCH MODEL [base] WEIGHTS [trust_remote_code] CHIPS [MAX_POSITIONS] [flags]
#
#   MODEL_TYPE     pa_fp16, pa_bf16 or pa_fp32: type of weights and products
#   SHOTS          solved examples before each question, 0 to 5
#   CASE_PAIRS     [[in,out],...], for example [[2048,2048],[256,256]]
#   BATCH          rows; for performance also a list [1,8]
#   MODEL          name in the results
#   WEIGHTS        directory of weights, or a YAML file
#   CHIPS          for performance: ranks that hold the model together. Datasets are asked of one process, whatever stands here
#   MAX_POSITIONS  of a row; default: what the model says
#
#   bash scripts/modeltest/run.sh pa_bf16 full_HumanEval 1 codellama CodeLlama-7b-hf 1 --data HumanEval.jsonl.gz
#   bash scripts/modeltest/run.sh pa_fp16 full_MMLU 5 8 codellama CodeLlama-7b-hf 1 --data mmlu_test --limit 20
#   bash scripts/modeltest/run.sh pa_fp16 performance [[512,512],[256,256]] 1 codellama CodeLlama-7b-hf 1
#
# Data files come from --data, or lie in DATASET_DIR (./dataset) as in the model tests: full/HumanEval, full/MMLU, full/CEval.
# Results go to results/CPU (or NPU) below the current folder. Flags go to `codellama eval` or `codellama performance`.
set -euo pipefail

script=$(dirname "${BASH_SOURCE[0]}")/../run.sh # for launch_common.sh, which lies beside it
usage=4,6
. "$(dirname "$script")/launch_common.sh"
script=${BASH_SOURCE[0]}

evaluated=(full_HumanEval full_MMLU full_CEval)
elsewhere="performance_maxbs performance_single precision_single simplified_GSM8K simplified_TruthfulQA full_CMMLU full_GSM8K full_TruthfulQA
full_BoolQ full_HumanEval_X full_LongBench full_LongBench-E full_NeedleBench full_GPQA full_AIME2024 edge_BoolQ edge_GSM8K"

words=()
flags=()
require_words() { # how many are left at least
    [ "${#words[@]}" -ge "$1" ] || fail "words are missing behind '$mode'."
}

take_tail() { # from MODEL on: sets model, weights, chips, positions
    require_words 3
    model=${words[0]}
    words=("${words[@]:1}")
    case ${words[0]} in
        base) words=("${words[@]:1}") ;;
        chat) fail "'chat' does not say which chat: write base, and for full_HumanEval --prompt-style llama2 or codellama-70b at the end." ;;
        lora) fail "'lora': adapters by request are not of this script; merge the adapter into the weights." ;;
    esac
    require_words 2
    weights=${words[0]}
    words=("${words[@]:1}")
    [ "${words[0]}" = trust_remote_code ] && words=("${words[@]:1}") # no code of a model is ever run
    require_words 1
    chips=${words[0]}
    require_count CHIPS "$chips"
    positions=${words[1]:-}
    [[ $positions =~ ^\[ ]] && fail "'$positions': ways to cut the model over chips are written in its YAML file."
    [ -z "$positions" ] || require_count MAX_POSITIONS "$positions"
    [ "${#words[@]}" -le 2 ] || fail "unknown word '${words[2]}'."
}

number_type_flags() { # bfloat16 on a CPU is a form of the weights, as in `codellama performance`
    case $type in
        pa_bf16) if [ -e /dev/davinci_manager ]; then echo --dtype bfloat16; else echo --weights bfloat16; fi ;;
        pa_fp16) echo --dtype float16 ;;
        pa_fp32) echo --dtype float32 ;;
    esac
}

data_of() { # the file or folder of a dataset below DATASET_DIR
    local place=${DATASET_DIR:-dataset}/full/$1 file
    for file in "$place"/human-eval.jsonl "$place"/HumanEval.jsonl.gz "$place"/HumanEval.jsonl; do
        [ "$1" = HumanEval ] && [ -f "$file" ] && echo "$file" && return
    done
    [ "$1" != HumanEval ] && [ -d "$place" ] && echo "$place" && return
    fail "no data: give --data PATH, or put the dataset into $place."
}

dataset() { # full_NAME [SHOTS] BATCH MODEL ...
    local name=${mode#full_} suite batch shots=() data=() hardware=CPU kind=${type#pa_}
    suite=${name,,}
    [ -e /dev/davinci_manager ] && hardware=NPU
    if [ "$suite" != humaneval ]; then
        require_words 1
        [[ ${words[0]} =~ ^[0-9]+$ ]] || fail "SHOTS is a whole number, got '${words[0]}'."
        shots=(--shots "${words[0]}")
        words=("${words[@]:1}")
    fi
    require_words 1
    batch=${words[0]}
    batch=${batch#[}
    batch=${batch%]}
    require_count BATCH "$batch"
    words=("${words[@]:1}")
    take_tail
    [[ " ${flags[*]} " == *" --data"[\ =]* ]] || data=(--data "$(data_of "$name")")
    [ "$chips" = 1 ] || echo "run.sh: $chips chips are named; one process holds the model (over ranks: docs/multiple_choice.md)." >&2
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    # shellcheck disable=SC2046 # two words
    exec "$python" -m mindformers_codellama.cli.main eval "$suite" "$weights" "${data[@]}" --batch-size "$batch" "${shots[@]}" \
        --output "results/$hardware/precision_test/$mode/$kind/$model" $(number_type_flags) ${positions:+--seq-length "$positions"} "${flags[@]}"
}

performance() { # CASE_PAIRS BATCH MODEL ...
    require_words 2
    local pairs=${words[0]} batch=${words[1]}
    words=("${words[@]:2}")
    [[ ${words[0]:-} =~ ^([0-9]+|prefill_length|dataset)$ ]] && fail "'${words[0]}': prompts are read in one go, and are random tokens."
    take_tail
    exec bash "$(dirname "$script")/../run_performance.sh" "$type" performance "$pairs" "$batch" "$model" "$weights" "$chips" \
        ${positions:+--max-seq-length "$positions"} "${flags[@]}"
}

case ${1:-} in -h | --help) explain ;; esac
type=${1:-} mode=${2:-}
[[ $type =~ ^pa_(fp16|bf16|fp32)$ ]] || fail "MODEL_TYPE is pa_fp16, pa_bf16 or pa_fp32, got '$type'."
shift 2 || fail "a test mode is missing: performance, ${evaluated[*]}."
while [ $# -gt 0 ] && [[ $1 != --* ]]; do
    words+=("$1")
    shift
done
flags=("$@")
case " ${evaluated[*]} " in *" $mode "*) dataset ;; esac
[ "$mode" = performance ] && performance
for name in $elsewhere; do
    [ "$mode" = "$name" ] && fail "'$mode' is a mode of the model tests that is not here; there are performance, ${evaluated[*]}."
done
fail "unknown test mode '$mode'; there are performance, ${evaluated[*]}."
