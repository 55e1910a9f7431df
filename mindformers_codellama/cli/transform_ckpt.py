"""MindFormers' transform_ckpt.py in terms of `codellama reshard`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def transform_arguments(words: Sequence[str]) -> list[str]:
    """Arguments of `codellama` for those of MindFormers' script.

    A strategy is a file, a folder, or empty (also `None`) for one whole checkpoint.
    """
    parser = argparse.ArgumentParser(prog="transform_ckpt.py", description="Cut, merge or cut anew a checkpoint, by strategy files.")
    strategy = "strategy file or folder; empty for a whole checkpoint"
    parser.add_argument("--src_ckpt_strategy", default="", help=f"{strategy}, or for shards that say themselves where they belong")
    parser.add_argument("--dst_ckpt_strategy", default="", help=strategy)
    parser.add_argument("--src_ckpt_dir", required=True, help="folder with rank_N folders, or their output_dir")
    parser.add_argument("--dst_ckpt_dir", required=True, help="folder to write: rank_N/PREFIXN.ckpt")
    parser.add_argument("--prefix", default="checkpoint_", help="start of the file names (checkpoint_)")
    parser.add_argument("--workers", type=int, help="processes that write")
    for flag, text in (("force", "replace an existing output"), ("verify", "compare all copies of a part"), ("dry_run", "write nothing")):
        parser.add_argument(f"--{flag}", action="store_true", help=text)
    given = parser.parse_args(words)
    made = ["reshard", given.src_ckpt_dir, given.dst_ckpt_dir, "--prefix", given.prefix]
    if given.src_ckpt_strategy not in ("", "None"):
        made += ["--strategy", given.src_ckpt_strategy]
    made += ["--whole"] if given.dst_ckpt_strategy in ("", "None") else ["--target-strategy", given.dst_ckpt_strategy]
    if given.workers is not None:
        made += ["--workers", str(given.workers)]
    if Path(given.prefix).name != given.prefix:
        parser.error(f"--prefix {given.prefix}: must be a name without folders")
    return made + ["--force"] * given.force + ["--verify"] * given.verify + ["--dry-run"] * given.dry_run
