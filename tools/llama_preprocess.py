"""WikiText or conversations to mindrecord; the flags and the rows of MindFormers' script."""

from __future__ import annotations

import argparse
import sys

from mindformers_codellama.cli.main import main


def run() -> int:
    """Read MindFormers' flags and call `codellama data prepare`; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = ("wiki", "qa", "text")
    parser.add_argument("--dataset_type", default="wiki", choices=kinds, help="text: documents, as codellama data prepare --text")
    parser.add_argument("--input_glob", required=True, help="one file; with text also a folder or a quoted glob")
    parser.add_argument("--output_file", required=True, help="mindrecord to write")
    parser.add_argument("--tokenizer", default="llama", choices=("llama",))
    parser.add_argument("--model_file", required=True, help="tokenizer.model")
    for name, default in (("file_partition", 1), ("repeat", 1), ("seq_length", 2048), ("fim_seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--fim_rate", type=float, help="make infilling tasks of this share of the documents of type text")
    parser.add_argument("--fim_spm_rate", type=float, default=0.5, help="share of them in the order suffix, prefix, middle")
    parser.add_argument("--fim_line_rate", type=float, default=0.0, help="share of them whose middle lies in one line")
    parser.add_argument("--fim_loss", default="all", help="all, or middle: learn the middles alone")
    parser.add_argument("--skip_bad", action="store_true", help="leave out bad records instead of refusing the file")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args()
    command = ["data", "prepare", args.input_glob, "--type", args.dataset_type, "--output", args.output_file, "--all-masked", "keep"]
    command += ["--tokenizer", args.model_file, "--seq-length", str(args.seq_length), "--parts", str(args.file_partition)]
    command += ["--repeat", str(args.repeat if args.dataset_type != "qa" else 1)]
    if args.fim_rate is not None:
        command += ["--fim", "--fim-rate", str(args.fim_rate), "--fim-spm-rate", str(args.fim_spm_rate)]
        command += ["--fim-line-rate", str(args.fim_line_rate), "--fim-seed", str(args.fim_seed), "--fim-loss", args.fim_loss]
    return main(command + ["--skip-bad"] * args.skip_bad + ["--force"] * args.force)


if __name__ == "__main__":
    sys.exit(run())
