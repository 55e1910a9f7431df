"""The small models this project makes itself (`scripts/train_demo.sh`): where a package that has them keeps them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

ASSETS = Path(__file__).parent / "assets"

DEMO = "codellama_demo"
"""Continues and fills in Python; `codellama infill` takes it where it is there and no model is named."""
DEMO_INSTRUCT = "codellama_demo_instruct"
"""The same with a low-rank adapter, which answers instructions."""

_ADAPTERS = MappingProxyType({DEMO: "", DEMO_INSTRUCT: DEMO_INSTRUCT})


def shipped_model(name: str) -> tuple[Path, Path | None] | None:
    """Folder of such a model in Hugging Face's layout, and of its adapter in PEFT's.

    Args:
        name: `codellama_demo` or `codellama_demo_instruct`, with `-` or `_`.

    Returns:
        (model, adapter or None); None for another name, and where the package was made without the models.
    """
    plain = name.lower().replace("-", "_")
    if plain not in _ADAPTERS or not (ASSETS / DEMO).is_dir():
        return None
    adapter = _ADAPTERS[plain]
    return ASSETS / DEMO, ASSETS / adapter if adapter else None
