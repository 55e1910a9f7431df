#!/usr/bin/env bash
# Makes two small models, codellama_demo and codellama_demo_instruct, from nothing but this machine's Python:
# tokenizer, infilling tasks of the standard library, pretraining, Hugging Face files, instructions, a low-rank adapter, evaluation.
# About an hour and a half on one core, nearly all of it pretraining; run again, it goes on where it stopped.
#
#   bash scripts/train_demo.sh                     writes output/demo/{codellama_demo,codellama_demo_instruct,held_out_*}
#   bash scripts/train_demo.sh --output DIR
#   bash scripts/train_demo.sh --rows 400          the same steps on a part, to see that they work
#
# Made once: held-out perplexity 13.7 per token, 51 of 60 instructions of unseen wording right, but infilling no better than
# continuing: parts of long files fill their rows, so the model learned where a middle ends by the length of the row. Parts have random lengths since; not trained again yet.
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
make_environment "${CODELLAMA_VENVS:-.}/.venv" ""
mkdir -p "$output"
part=() some=()
[ "$rows" = 0 ] || part=(--set train_dataset.data_loader.num_samples="$rows") some=(--limit 20)

# Character maps are tables a program wrote: a quarter of the tokens, and nothing to learn.
list='import sys
from mindformers_codellama.data.stdlib_source import collect_stdlib
print(*(path for path in getattr(collect_stdlib(), sys.argv[1]) if not {*sys.argv[2:]} & {*path.parts}), sep="\n")'
mapfile -t words < <(python -c "$list" train)
mapfile -t library < <(python -c "$list" train encodings)
mapfile -t held_out < <(python -c "$list" held_out encodings)

step() { printf '\n== %s\n' "$1"; }
once() { # FILE COMMAND...: unless an earlier run has made FILE
    [ -e "$1" ] || "${@:2}"
}

step "1 of 6: a tokenizer of 4,096 pieces"
once "$output/tokenizer/tokenizer.model" \
    codellama train-tokenizer --input "${words[@]}" --vocab-size 4096 --output "$output/tokenizer/tokenizer.model"

step "2 of 6: ${#library[@]} files of the standard library as infilling tasks, cut differently each of seven times"
once "$output/library.mindrecord" \
    codellama data prepare --text "${library[@]}" --fim --pack --repeat 7 --tokenizer "$output/tokenizer" --seq-length 512 \
    --output "$output/library.mindrecord"

step "3 of 6: pretrain"
resume=()
[ ! -e "$output/pretrain/checkpoint" ] || resume=(--resume)
once "$output/codellama_demo" \
    codellama train configs/codellama/pretrain_codellama_demo.yaml "${resume[@]}" "${part[@]}" --set output_dir="$output/pretrain" \
    --set train_dataset.data_loader.dataset_dir="$output/library.mindrecord"

step "4 of 6: Hugging Face files in bfloat16"
once "$output/codellama_demo" \
    codellama convert "$output/pretrain/checkpoint" "$output/codellama_demo" --to hf --dtype bfloat16 \
    --config codellama_demo --tokenizer "$output/tokenizer"

step "5 of 6: an adapter that answers instructions"
once "$output/instructions.json" \
    python scripts/examples/demo_instructions.py --output "$output/instructions.json" --count "$instructions"
once "$output/instructions.mindrecord" \
    codellama data prepare "$output/instructions.json" --template llama2 --pack --tokenizer "$output/tokenizer" --seq-length 512 \
    --output "$output/instructions.mindrecord"
once "$output/codellama_demo_instruct" \
    codellama finetune configs/codellama/finetune_codellama_demo_lora.yaml --set load_checkpoint="$output/codellama_demo" \
    --set train_dataset.data_loader.dataset_dir="$output/instructions.mindrecord" --set output_dir="$output/instruct"
once "$output/codellama_demo_instruct" cp -r "$output/instruct/adapter" "$output/codellama_demo_instruct"

step "6 of 6: ${#held_out[@]} files of the library it has not seen"
codellama eval perplexity "$output/codellama_demo" --data "${held_out[@]}" "${some[@]}" --output "$output/held_out_perplexity"
codellama eval infilling-lines "$output/codellama_demo" --files python-stdlib "${some[@]}" --output "$output/held_out_lines" --batch-size 8
