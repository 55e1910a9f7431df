"""Writes `docs/config.md`: every key with its type, default and meaning, from the sections themselves.

python -m mindformers_codellama.config.reference --write
python -m mindformers_codellama.config.reference --check
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from mindformers_codellama.config.coerce import describe
from mindformers_codellama.config.dialect import MODEL_KEYS
from mindformers_codellama.config.fields import field_types, rule_of
from mindformers_codellama.config.overrides import RUN_MINDFORMER_FLAGS
from mindformers_codellama.config.refused import REFUSED
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_callbacks import CALLBACK_TYPES
from mindformers_codellama.config.sections_training import DynamicLossScale

TARGET = Path(__file__).resolve().parents[2] / "docs" / "config.md"

INTRO = """# Configuration reference

<!-- Written by `python -m mindformers_codellama.config.reference --write`; a test keeps it true. Do not edit. -->

A run is one YAML file in MindFormers' dialect. What the reader does:

- Unknown keys are refused with file, line and the nearest name; so are values of the wrong type or out of range. All findings come at once.
- `base_config: FILE` (or a list of files, relative to this one) is laid underneath: sections are merged, lists and values replaced.
- Anchors (`&name`), aliases (`*name`) and merge keys (`<<`) work. `1e-5` and `1.e-5` are numbers, and `None` is null
  where a key takes null but no text. A key written twice and a file without any key are errors.
- `--set section.key=value` lays one value over the file (list elements by position or callback type: `callbacks.CheckpointMonitor.prefix`);
  `codellama check FILE` explains the result.
- A key marked **refused** loads with the values that ask for nothing; any other value is an error that says what to write instead.
  With `engine: mindformers` another list holds (docs/engines.md).
- A *companion* is a setting of a refused switch: any value loads and none has an effect.

"""


def field_texts(section: type) -> dict[str, str]:
    """Field name to the docstring below it, read from the source of the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef), "a section is a class"
    texts: dict[str, str] = {}
    for item, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(below, ast.Expr):
            if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
                texts[item.target.id] = " ".join(below.value.value.split())
    return texts


def section_of(kind: Any) -> type | None:
    """The section class in an annotation, if there is one."""
    return next((option for option in (kind, *get_args(kind)) if dataclasses.is_dataclass(option) and option is not DynamicLossScale), None)  # type: ignore[return-value]


def sections() -> Iterator[tuple[str, type]]:
    """Dotted name and class of every section, in the order of the file; the top level is `""`."""
    yield "", RunConfig
    waiting = [(name, kind) for name, kind in field_types(RunConfig).items()]
    while waiting:
        name, kind = waiting.pop(0)
        section = section_of(kind)
        if section is None or name.endswith("dataset_config"):
            continue
        yield name, section
        waiting = [(f"{name}.{inner}", inner_kind) for inner, inner_kind in field_types(section).items()] + waiting
    yield "runner_wrapper.scale_sense", DynamicLossScale
    for name, section in CALLBACK_TYPES.items():
        if name != "CheckpointMointor":
            yield f"callbacks.{name}", section


def render() -> str:
    """The whole page."""
    parts = [INTRO]
    done: dict[type, str] = {}
    for name, section in sections():
        parts.append(f"## {'Top level' if not name else f'`{name}`'}\n\n")
        if section in done:
            parts.append(f"The same keys as [`{done[section]}`](#{anchor(done[section])}).\n\n")
            continue
        done[section] = name
        parts.append(f"{(inspect.getdoc(section) or '').split(chr(10) + chr(10))[0]}\n\n" if name else "")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|\n")
        parts.extend(rows(name, section))
        parts.append("\n")
    parts.append(flags_table())
    parts.append(words_table())
    return "".join(parts)


def anchor(name: str) -> str:
    """GitHub's anchor of a heading."""
    return name.lower().replace(".", "")


def rows(name: str, section: type) -> Iterator[str]:
    """One table row per key of a section."""
    texts = field_texts(section)
    types = field_types(section)
    for field in dataclasses.fields(section):
        inner = section_of(types[field.name])
        kind = "section" if inner is not None and not get_args(types[field.name]) else describe(types[field.name])
        if "callbacks" in field.name:
            kind = "list of sections"
        choices = rule_of(field).choices
        allowed = f" One of {', '.join(f'`{choice}`' for choice in choices if choice != '')}." if len(choices) > 1 else ""
        key = f"{name}.{field.name}" if name else field.name
        yield f"| `{field.name}` | {kind} | {default_text(field, kind)} | {texts[field.name]}{allowed}{refused_text(key)} |\n"


def default_text(field: dataclasses.Field[Any], kind: str) -> str:
    """A default as YAML writes it."""
    if kind in ("section", "list of sections"):
        return ""
    value = field.default
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{value}`"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def refused_text(key: str) -> str:
    """What is refused about a key, for its row."""
    row = REFUSED.get(key.replace("eval_dataset.", "train_dataset."))
    if row is None:
        return ""
    allowed = " or ".join(f"`{value}`" if value != "" else "empty" for value in row.allowed if value is not None)
    return f" **refused** unless {allowed}: {row.why} Instead: {row.instead}"


def flags_table() -> str:
    """Flags of `codellama run` and the keys they set."""
    lines = [f"| `--{flag}` | {', '.join(f'`{key}`' for key in keys)} |\n" for flag, keys in RUN_MINDFORMER_FLAGS.items()]
    head = "## Flags of `codellama run` and `run_mindformer.py`\n\nAny other `--a.b.c value` sets that key; `--options a.b=c` does too.\n\n"
    return f"{head}| flag | keys it sets |\n|---|---|\n{''.join(lines)}\n"


def words_table() -> str:
    """MindFormers' keys of a model and our words, where they differ."""
    lines = [f"| `{theirs}` | `{ours}` |\n" for theirs, ours in MODEL_KEYS.items() if theirs != ours]
    head = "## Words\n\nThe YAML and `LlamaConfig` keep MindFormers' spelling; `ModelConfig` and everything else has ours.\n\n"
    return f"{head}| `model.model_config` | `ModelConfig` |\n|---|---|\n{''.join(lines)}"


def main() -> int:
    """Write the page, or compare it with the file."""
    parser = argparse.ArgumentParser(prog="python -m mindformers_codellama.config.reference", description="Configuration reference.")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true", help=f"write {TARGET.name}")
    choice.add_argument("--check", action="store_true", help="fail when the file is not what would be written")
    if parser.parse_args().write:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(render(), encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == render():
        return 0
    sys.stderr.write(f"{TARGET} is out of date: run python -m mindformers_codellama.config.reference --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
