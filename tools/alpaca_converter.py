"""Alpaca records to the conversation file `llama_preprocess.py` reads; the flags of MindFormers' script."""

from __future__ import annotations

import argparse
import sys

from mindformers_codellama.cli.main import main


def run() -> int:
    """Read MindFormers' flags and call `codellama data convert`; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", default="alpaca-data.json", help="Alpaca JSON")
    parser.add_argument("--output_path", default="alpaca-data-conversation.json", help="conversation file to write")
    parser.add_argument("--skip_bad", action="store_true", help="leave out bad records instead of refusing the file")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    args = parser.parse_args()
    extra = ["--skip-bad"] * args.skip_bad + ["--force"] * args.force
    return main(["data", "convert", args.data_path, args.output_path, *extra])


if __name__ == "__main__":
    sys.exit(run())
