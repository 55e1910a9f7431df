"""Ask a finetuned model the instructions it was trained on, and show its answers beside the expected ones.

python scripts/examples/ask_what_it_learned.py CONFIG --load-checkpoint CKPT --data instructions.json --count 6
"""

import argparse
import sys
import textwrap
from itertools import islice
from pathlib import Path

from mindformers_codellama.data.records import read_records
from mindformers_codellama.errors import CodeLlamaError, DataError
from mindformers_codellama.generation.result import GenerationResult
from mindformers_codellama.pipelines.open_model import OpenedModel, open_model
from mindformers_codellama.pipelines.text_generation import TextGenerationPipeline
from mindformers_codellama.text.chat import Message, chat_ids


def ask(args: argparse.Namespace) -> int:
    """Print every question with its answer; 0 when at least `--at-least` answers equal the expected ones."""
    found = list(islice(read_records(Path(args.data)), args.first))
    for record in found:
        if not isinstance(record.value, dict) or not all(isinstance(record.value.get(key), str) for key in ("instruction", "output")):
            raise DataError(record.place, "has no instruction and output texts.", fix="give the Alpaca file the model was finetuned on.")
    records = [record.value for record in found]
    opened = open_model(args.config, load_checkpoint=args.load_checkpoint, tokenizer=args.tokenizer, overrides=args.set)
    room = opened.model.config.seq_length

    questions = []  # (record, prompt ids) of records that fitted into a training row
    for record in records:
        message = Message("user", record["instruction"])
        prompt = chat_ids(opened.tokenizer, [message], args.prompt_style, input_text=record.get("input", ""))
        answer_length = len(opened.tokenizer.encode_pieces(record["output"], bos=False, eos=True))
        if record["output"] and len(prompt) + answer_length <= room:
            questions.append((record, prompt))
    questions = questions[:: max(1, len(questions) // args.count)][: args.count]
    if not questions:
        raise DataError(args.data, f"no answer of the first {len(records)} records fits into {room} tokens.", fix="look at more: --first.")

    config = opened.generation.updated(max_length=room, eos_token_id=opened.tokenizer.eos_token_id)
    pipe = TextGenerationPipeline(opened.model, opened.tokenizer, batch_size=len(questions))
    result = pipe.run([prompt for _, prompt in questions], config)
    return show(opened, questions, result, at_least=args.at_least)


def show(opened: OpenedModel, questions: list[tuple[dict[str, str], list[int]]], result: GenerationResult, *, at_least: int) -> int:
    """Print the answers, and how many equal the expected ones."""
    right = 0
    for (record, prompt), ids in zip(questions, result.ids, strict=True):
        answer = opened.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()
        same = answer == record["output"].strip()
        right += same
        print(f"\n{'right' if same else 'wrong'}  {record['instruction']} {record.get('input', '')}".rstrip())
        print(textwrap.indent(answer, "       | "))
        if not same:
            print(textwrap.indent(record["output"].strip(), "       expected | "))
    print(f"\n{right} of {len(questions)} answers equal the expected ones, to the letter.")
    return 0 if right >= at_least else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of the model")
    parser.add_argument("--load-checkpoint", default="", help="finetuned weights, where CONFIG names none")
    parser.add_argument("--data", required=True, help="the Alpaca file it was finetuned on")
    parser.add_argument("--tokenizer", default="codellama_tiny")
    parser.add_argument("--prompt-style", default="alpaca", help="how it was finetuned; see codellama predict --help")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of the YAML file; may be repeated")
    parser.add_argument("--count", type=int, default=6, help="questions asked, spread over the records")
    parser.add_argument("--first", type=int, default=10**9, help="look at the first N records only")
    parser.add_argument("--at-least", type=int, default=0, help="exit with 1 when fewer answers are right")
    try:
        sys.exit(ask(parser.parse_args()))
    except CodeLlamaError as error:
        sys.exit(f"error: {error}")
