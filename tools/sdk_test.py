#!/usr/bin/env python
"""The ATB SDK's sdk_test.py: `--task precision` (MMLU, C-Eval), `performance` or `run`, from sdk_config.ini."""

from __future__ import annotations

import sys

from mindformers_codellama.cli.main import reported
from mindformers_codellama.cli.sdk_test import sdk_main

if __name__ == "__main__":
    sys.exit(reported(sdk_main))
