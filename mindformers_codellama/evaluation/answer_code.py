"""Code in what a model answers: between tags, in a fenced block, or the answer itself."""

from __future__ import annotations

import re

PYTHON_TAGS = ("[PYTHON]", "[/PYTHON]")
"""What the Code Llama paper's zero-shot prompts ask for."""
_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def tagged_code(text: str) -> str:
    """What stands between `PYTHON_TAGS`; one of them may be missing. Without any, as `fenced_code`."""
    opening, closing = PYTHON_TAGS
    if opening not in text and closing not in text:
        return fenced_code(text)
    return text.rpartition(opening)[2].partition(closing)[0] if opening in text else text.partition(closing)[0]


def fenced_code(text: str, name: str = "") -> str:
    """The first fenced block, or the first that defines `name`; the text itself when there is none."""
    blocks = [match[1] for match in _FENCE.finditer(text)]
    wanted = [block for block in blocks if name and re.search(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", block, re.MULTILINE)]
    return next(iter(wanted or blocks), text)
