#!/usr/bin/env bash
# The whole journey on this machine's CPU: install, pretrain a tiny Code Llama on the Python standard library, prepare
# instructions, finetune on them, ask what it has learned, fill in code. Under 5 minutes after installation on two cores.
#
#   bash scripts/quickstart.sh
#   bash scripts/quickstart.sh --data code_alpaca.json --tokenizer tokenizer.model    # your Alpaca file, your tokenizer
#
#   --data FILE        instructions in Alpaca form (a JSON list of instruction, input, output); default: the shipped ones
#   --tokenizer FILE   a SentencePiece tokenizer.model; default: the shipped one (2,048 pieces)
#   --output DIR       where everything is written; default: output/quickstart (replaced when it exists)
set -euo pipefail
invoked_from=$PWD
cd "$(dirname "$0")/.."
source scripts/environment.sh

data=mindformers_codellama/data/assets/tiny_instructions.json
tokenizer=codellama_tiny
output=output/quickstart
own_data=no

absolute() { case $1 in /*) echo "$1" ;; *) echo "$invoked_from/$1" ;; esac; }

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
        --data | --tokenizer | --output)
            [ $# -ge 2 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
            case $1 in
                --data) data=$(absolute "$2"); own_data=yes ;;
                --tokenizer) tokenizer=$(absolute "$2") ;;
                --output) output=$(absolute "$2") ;;
            esac
            shift 2 ;;
        *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
done
for file in "$data" "$tokenizer"; do
    [ "$file" = codellama_tiny ] || [ -r "$file" ] || { echo "error: cannot read $file" >&2; exit 2; }
done

make_environment "${CODELLAMA_VENVS:-.}/.venv" ""
started=$SECONDS
if [ -t 2 ]; then # a terminal shows progress bars; anything else gets MindFormers' log lines
    export CODELLAMA_LOG_LEVEL=${CODELLAMA_LOG_LEVEL:-WARNING}
fi
configs=configs/codellama
work=$output/work # the only folder that is replaced, so --output may name one with other files in it
rm -rf "$work"
mkdir -p "$work"

step() { printf '\n== %s  [%d s]\n' "$1" "$((SECONDS - started))"; }
run() {
    printf '$ %s\n' "$*"
    "$@"
}

# The shipped tokenizer has as many pieces as the tiny configurations expect; another one sets the size of the model.
pieces='import sys; from mindformers_codellama import AutoTokenizer; print(AutoTokenizer.from_pretrained(sys.argv[1]).vocab_size)'
vocabulary=$(python -c "$pieces" "$tokenizer")
size=()
[ "$vocabulary" = 2048 ] || size=(--set model.model_config.vocab_size="$vocabulary" --set trainer.model_name=tiny_with_my_tokenizer)

# What two cores do in a few minutes. A model this small learns a few dozen answers by heart, not a large file.
pretrain_rows=1600 records=120 epochs=28 at_least=4
[ "$own_data" = no ] || at_least=0 # how well other answers are learned is not known beforehand
if [ "$vocabulary" -gt 4096 ]; then # the output head of a large vocabulary is most of the work
    pretrain_rows=240 records=16 epochs=80
fi

step "1 of 6: the Python standard library as training text"
run codellama data prepare --text python-stdlib --max-bytes 2000000 --tokenizer "$tokenizer" --seq-length 256 \
    --output "$work/stdlib.mindrecord"

step "2 of 6: pretrain a tiny Code Llama on it"
run codellama train $configs/pretrain_codellama_tiny.yaml "${size[@]}" \
    --set train_dataset.data_loader.dataset_dir="$work/stdlib.mindrecord" --set train_dataset.data_loader.num_samples=$pretrain_rows \
    --set output_dir="$work/pretrain"

step "3 of 6: instructions to conversations to training rows"
head='import json, sys; json.dump(json.load(open(sys.argv[1], encoding="utf-8"))[: int(sys.argv[3])], open(sys.argv[2], "w", encoding="utf-8"))'
run python tools/alpaca_converter.py --data_path "$data" --output_path "$work/all_conversations.json"
python -c "$head" "$work/all_conversations.json" "$work/conversations.json" $records
echo "the first $records of them are used"
run codellama data prepare "$work/conversations.json" --pack --tokenizer "$tokenizer" --seq-length 256 \
    --output "$work/instructions.mindrecord"

step "4 of 6: finetune on the instructions"
run codellama finetune $configs/finetune_codellama_tiny.yaml "${size[@]}" --set load_checkpoint="$work/pretrain/checkpoint" \
    --set train_dataset.data_loader.dataset_dir="$work/instructions.mindrecord" \
    --set runner_config.epochs=$epochs --set output_dir="$work/finetune"

step "5 of 6: ask what it has learned"
run python scripts/examples/ask_what_it_learned.py $configs/predict_codellama_tiny.yaml "${size[@]}" --tokenizer "$tokenizer" \
    --load-checkpoint "$work/finetune/checkpoint" --data "$data" --first $records --count 6 --at-least $at_least

step "6 of 6: the small model that is shipped, made by the same commands in two hours, fills in what is missing at <FILL>"
cat > "$work/test_add.py" <<'END'
import unittest


class TestAdd(unittest.TestCase):
    def test_add(self):
        self.<FILL>(1 + 2, 3)


if __name__ == "__main__":
    unittest.<FILL>()
END
run codellama infill codellama_demo --fill '<FILL>' "$work/test_add.py" --until line

cat <<END

== done in $((SECONDS - started)) s. Loss curves: $work/pretrain/log/loss.png and $work/finetune/log/loss.png

Try next:
  source .venv/bin/activate
  codellama infill --fill '<FILL>' 'import re\nimport <FILL>\n\nprint(sys.argv)\n'
  codellama chat codellama_demo_instruct      asked: Write a function total(items) that returns the sum of items.
  codellama chat $configs/predict_codellama_tiny.yaml ${size[*]} --tokenizer $tokenizer --prompt-style alpaca \\
    --load-checkpoint $work/finetune/checkpoint
  codellama check $configs/finetune_codellama_34b_910b.yaml      what a run on 32 NPUs would do
  codellama convert CodeLlama-7b-hf codellama_7b.ckpt            weights of Hugging Face, without torch
  bash scripts/quickstart.sh --data code_alpaca.json --tokenizer tokenizer.model
END
