#!/usr/bin/env python
"""MindFormers' convert_weight.py: weights of Hugging Face or Meta to MindSpore and back. See `--help`."""

import sys

from mindformers_codellama.cli.convert_weight import convert_arguments
from mindformers_codellama.cli.main import main

if __name__ == "__main__":
    sys.exit(main(convert_arguments(sys.argv[1:])))
