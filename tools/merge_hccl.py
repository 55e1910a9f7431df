#!/usr/bin/env python
"""MindFormers' merge_hccl.py: rank tables of several machines to one. See `--help`."""

import sys

from mindformers_codellama.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["rank-table", "merge", *sys.argv[1:]]))
