#!/usr/bin/env python
"""MindFormers' transform_ckpt.py: checkpoints between layouts, by strategy files. See `--help`."""

import sys

from mindformers_codellama.cli.main import main
from mindformers_codellama.cli.transform_ckpt import transform_arguments

if __name__ == "__main__":
    sys.exit(main(transform_arguments(sys.argv[1:])))
