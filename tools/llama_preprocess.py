"""WikiText or conversations to mindrecord; the flags and the rows of MindFormers' script."""

from __future__ import annotations

import argparse
import sys

from mindformers_codellama.cli.main import main


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_type", default="wiki", choices=("wiki", "qa"))
    parser.add_argument("--input_glob", required=True, help="one file")
    parser.add_argument("--output_file", required=True, help="mindrecord to write")
    parser.add_argument("--tokenizer", default="llama", choices=("llama",))
    parser.add_argument("--model_file", required=True, help="tokenizer.model")
    for name, default in (("file_partition", 1), ("repeat", 1), ("seq_length", 2048)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--skip_bad", action="store_true", help="leave out bad records instead of refusing the file")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args()
    command = ["data", "prepare", args.input_glob, "--type", args.dataset_type, "--output", args.output_file, "--all-masked", "keep"]
    command += ["--tokenizer", args.model_file, "--seq-length", str(args.seq_length), "--parts", str(args.file_partition)]
    command += ["--repeat", str(args.repeat if args.dataset_type == "wiki" else 1)]
    return main(command + ["--skip-bad"] * args.skip_bad + ["--force"] * args.force)


if __name__ == "__main__":
    sys.exit(run())
