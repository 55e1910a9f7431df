"""The small models this project ships: real weights where nothing can be downloaded. Their cards are in `assets/`."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

ASSETS = Path(__file__).parent / "assets"

DEMO = "codellama_demo"
"""Continues and fills in Python; what commands take where a model may be left out."""
DEMO_INSTRUCT = "codellama_demo_instruct"
"""The same with a low-rank adapter, which answers instructions."""

_ADAPTERS = MappingProxyType({DEMO: "", DEMO_INSTRUCT: DEMO_INSTRUCT})


def shipped_model(name: str) -> tuple[Path, Path | None] | None:
    """Folder of a shipped model in Hugging Face's layout, and of its adapter in PEFT's.

    Args:
        name: `codellama_demo` or `codellama_demo_instruct`, with `-` or `_`.

    Returns:
        (model, adapter or None); None when the project ships no model of that name.
    """
    plain = name.lower().replace("-", "_")
    if plain not in _ADAPTERS:
        return None
    adapter = _ADAPTERS[plain]
    return ASSETS / DEMO, ASSETS / adapter if adapter else None
