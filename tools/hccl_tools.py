#!/usr/bin/env python
"""MindFormers' hccl_tools.py: the rank table of this machine. See `--help`."""

import sys

from mindformers_codellama.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["rank-table", "make", *sys.argv[1:]]))
