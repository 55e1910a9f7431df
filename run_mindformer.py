"""MindFormers' entry point by its old name: `python run_mindformer.py --config FILE ...` is `codellama run --config FILE ...`."""

from __future__ import annotations

import sys

from mindformers_codellama.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
