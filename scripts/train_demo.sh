#!/usr/bin/env bash
# Makes two small models, codellama_demo and codellama_demo_instruct, from nothing but this machine's Python:
# tokenizer, infilling tasks of the standard library, pretraining, Hugging Face files, instructions, a low-rank adapter, evaluation.
# About two hours on two cores, nearly all of it pretraining; run again, it goes on where it stopped.
#
#   bash scripts/train_demo.sh                     writes output/demo/{codellama_demo,codellama_demo_instruct,held_out_*}
#   bash scripts/train_demo.sh --output DIR
#   bash scripts/train_demo.sh --rows 400          the same steps on a part, to see that they work
#
# Pretraining has two stages, because a model this small does not learn from rows of code alone where a middle ends (docs/infilling.md): all ids of
# infilling tasks of any length, then the middles of short ones. The shipped models were made in more rounds; their card lists them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

output=output/demo rows=0 instructions=3000
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --output | --rows)
            [ $# -ge 2 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
            case $1 in --output) output=$2 ;; --rows) rows=$2 instructions=200 ;; esac
            shift 2 ;;
        *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
done
[[ $rows =~ ^[0-9]+$ ]] || { echo "error: --rows: got $rows, must be a whole number" >&2; exit 2; }
made=$(cat "$output/rows" 2>/dev/null || echo "$rows")
[ "$made" = "$rows" ] || { echo "error: $output was begun with --rows $made, and is not gone on with --rows $rows. Fix: give another --output" >&2; exit 2; }
make_environment "${CODELLAMA_VENVS:-.}/.venv" ""
mkdir -p "$output"
echo "$rows" > "$output/rows"
part=() some=()
[ "$rows" = 0 ] || part=(--set train_dataset.data_loader.num_samples="$rows") some=(--limit 20)

mapfile -t words < <(python scripts/examples/demo_text.py library)
mapfile -t files < <(python scripts/examples/demo_text.py all)
mapfile -t held_out < <(python scripts/examples/demo_text.py held-out)
[ "$rows" = 0 ] || { words=("${words[@]:0:100}") files=("${files[@]:0:100}"); }

step() { printf '\n== %s\n' "$1"; }
once() { # FILE COMMAND...: unless an earlier run has made FILE
    [ -e "$1" ] || "${@:2}"
}

step "1 of 6: a tokenizer of 4,096 pieces"
once "$output/tokenizer/tokenizer.model" \
    codellama train-tokenizer --input "${words[@]}" --vocab-size 4096 --output "$output/tokenizer/tokenizer.model"

stage() { # NAME FROM ROW_LENGTH ROWS_PER_STEP RATE OPTION_OF_DATA_PREPARE...: the weights of FROM trained further
    [ ! -e "$output/$1/done" ] || return 0
    local resume=() from=()
    once "$output/$1.mindrecord" \
        codellama data prepare --fim --pack --tokenizer "$output/tokenizer" --seq-length "$3" --output "$output/$1.mindrecord" "${@:6}"
    [ -z "$2" ] || from=(--set load_checkpoint="$output/$2/checkpoint_network")
    [ ! -e "$output/$1/checkpoint" ] || resume=(--resume)
    codellama train configs/codellama/pretrain_codellama_demo.yaml "${resume[@]}" "${part[@]}" "${from[@]}" \
        --set model.model_config.seq_length="$3" --set runner_config.batch_size="$4" --set lr_schedule.learning_rate="$5" \
        --set train_dataset.data_loader.dataset_dir="$output/$1.mindrecord" --set output_dir="$output/$1"
    touch "$output/$1/done"
}

step "2 of 6: pretrain on ${#files[@]} files of the standard library, its tests and tools"
once "$output/chains.txt" sh -c 'python scripts/examples/demo_text.py chains > "$1.part" && mv "$1.part" "$1"' _ "$output/chains.txt"
stage documents "" 256 16 2.e-3 --text "${files[@]}" --fim-line-rate 0.6 --fim-part-from 0.15 --repeat 4

step "3 of 6: learn to infill: short tasks, their middles alone"
stage middles documents 192 21 3.e-4 --text "${words[@]}" "$output/chains.txt" \
    --fim-spm-rate 0.4 --fim-line-rate 0.93 --fim-part-from 0.1 --fim-loss middle --fim-seed 1

step "4 of 6: Hugging Face files in bfloat16"
once "$output/codellama_demo" \
    codellama convert "$output/middles/checkpoint" "$output/codellama_demo" --to hf --dtype bfloat16 \
    --config codellama_demo --tokenizer "$output/tokenizer"

step "5 of 6: an adapter that answers instructions"
once "$output/instructions.json" \
    python scripts/examples/demo_instructions.py --output "$output/instructions.json" --count "$instructions"
once "$output/instructions.mindrecord" \
    codellama data prepare "$output/instructions.json" --template llama2 --pack --tokenizer "$output/tokenizer" --seq-length 256 \
    --output "$output/instructions.mindrecord"
once "$output/codellama_demo_instruct" \
    codellama finetune configs/codellama/finetune_codellama_demo_lora.yaml --set load_checkpoint="$output/codellama_demo" \
    --set train_dataset.data_loader.dataset_dir="$output/instructions.mindrecord" --set output_dir="$output/instruct"
once "$output/codellama_demo_instruct" cp -r "$output/instruct/adapter" "$output/codellama_demo_instruct"

step "6 of 6: ${#held_out[@]} files of the library it has not seen"
codellama eval perplexity "$output/codellama_demo" --data "${held_out[@]}" "${some[@]}" --output "$output/held_out_perplexity"
codellama eval infilling-lines "$output/codellama_demo" --files python-stdlib "${some[@]}" --output "$output/held_out_lines" --batch-size 8
