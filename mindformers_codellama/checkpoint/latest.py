"""The newest complete checkpoint of a directory."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.errors import CheckpointError, CodeLlamaError

log = logging.getLogger(__name__)
_STEP = re.compile(r"-(\d+)_(\d+)\.ckpt$")
"""MindFormers' `<prefix>-<epoch>_<step in epoch>.ckpt`."""


def get_last_checkpoint(folder: str | Path) -> str | None:
    """Path of the newest complete `.ckpt` directly in `folder`; None when there is none.

    Files with a step in their name come before others and are ordered by epoch and step, then by time of
    change. Temporary files are not looked at; a damaged or cut file is passed over with a warning.

    Raises:
        CheckpointError: `folder` is not a directory.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(folder, "is not a directory.")
    for path in sorted(folder.glob("*.ckpt"), key=_age, reverse=True):
        if path.name.startswith("."):
            continue
        try:
            scan_ckpt(path)
        except CodeLlamaError as error:
            log.warning("passed over: %s", error)
            continue
        return str(path)
    return None


def _age(path: Path) -> tuple[int, int, int, int]:
    found = _STEP.search(path.name)
    epoch, step = (int(found[1]), int(found[2])) if found else (-1, -1)
    return bool(found), epoch, step, path.stat().st_mtime_ns
