#!/usr/bin/env python
"""MindFormers' run_infer_main.py: exported graphs answer, on MindSpore or on MindSpore Lite. See `--help`."""

import sys

from mindformers_codellama.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
