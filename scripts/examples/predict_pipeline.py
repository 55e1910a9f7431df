"""Generate from text with `pipeline("text_generation")`, in batches and as a stream.

python scripts/examples/predict_pipeline.py --checkpoint_path CKPT
"""

import argparse
import sys

from mindformers_codellama import pipeline
from mindformers_codellama.pipelines.open_model import open_model

PROMPTS = ["def bubble_sort(arr):\n", "def quick_sort(arr):\n", "def add(a, b):\n"]


def show(row: int, piece: str) -> None:
    """Write a piece of the answer to one prompt as soon as it is known."""
    sys.stdout.write(piece)
    sys.stdout.flush()


def main(args: argparse.Namespace) -> None:
    """Three prompts two at a time, then one as a stream."""
    opened = open_model(args.model, load_checkpoint=args.checkpoint_path)
    text_generation = pipeline("text_generation", opened.model, opened.tokenizer, batch_size=2, max_new_tokens=args.max_new_tokens)
    for answer in text_generation(PROMPTS):
        print(answer)
    print("== as a stream, drawn at random with seed 1")
    text_generation(PROMPTS[0], on_text=show, do_sample=True, temperature=0.8, top_p=0.95, seed=1)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="configs/codellama/predict_codellama_tiny.yaml", help="YAML file or a directory with weights")
    parser.add_argument("--checkpoint_path", default="", help="weights, instead of the configuration's")
    parser.add_argument("--max_new_tokens", default=32, type=int)
    main(parser.parse_args())
