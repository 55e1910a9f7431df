"""`lite.ini`, the configuration file of MindSpore Lite: read, checked, and never changed.

MindSpore Lite skips keys it does not know, so a misspelt one would silently mean its default. Here it is refused, with the
nearest name. Options of GE (`ge.*`) are many and grow with CANN: one that resembles none of those known is let through with a
warning. Sources: MindSpore Lite 2.7, `src/common/common.h`, `ge_graph_executor.cc` and "Ascend Conversion Tool Description";
CANN's `ge_api_types.h`. Not run on Ascend.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all
from mindformers_codellama.mindir.lite_keys import ASCEND_CONTEXT, CHOICES, GE_OPTIONS, PLUGIN_CUSTOM_OPS, SECTIONS

logger = logging.getLogger(__name__)

ASCEND = "ascend_context"
GLOBAL, SESSION, GRAPH = "ge_global_options", "ge_session_options", "ge_graph_options"
PROVIDER = "ge"
PLACEHOLDER = "RANK_TABLE_FILE"
"""What MindFormers' page writes where a path belongs."""


@dataclass(frozen=True, kw_only=True)
class LiteIni:
    """One checked file."""

    path: Path
    sections: Mapping[str, Mapping[str, str]]
    """Section to key to value, as written."""
    lines: Mapping[tuple[str, str], int]
    """Where each key stands."""

    def value(self, section: str, key: str) -> str:
        """A value; empty when it is not written."""
        return self.sections.get(section, {}).get(key, "")

    def where(self, section: str, key: str) -> str:
        """`file:line: [section] key`."""
        line = self.lines.get((section, key))
        return f"{self.path}{'' if line is None else f':{line}'}: [{section}] {key}"

    @property
    def rank_table(self) -> Path | None:
        """`rank_table_file`: from the current folder, else from the folder of this file; None when it is not written."""
        written = self.value(ASCEND, "rank_table_file")
        if not written:
            return None
        path = Path(written).expanduser()
        beside = self.path.parent / path
        return path.resolve() if path.is_file() or not beside.is_file() else beside.resolve()


def read_lite_ini(path: str | Path) -> LiteIni:
    """Read and check a file.

    Raises:
        ConfigError: a file that cannot be read, or what is wrong with it (`Findings` of several), with lines.
    """
    source = Path(path).expanduser()
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(source, "is not text in UTF-8.", fix="give a lite.ini; configs/codellama/lite.ini is one.") from error
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}."
        raise ConfigError(source, problem, fix="give a lite.ini; configs/codellama/lite.ini is one.") from error
    found: list[CodeLlamaError] = []
    ini = _parse(source, text, found)
    found += _name_findings(ini)
    found += _value_findings(ini)
    raise_all(found)
    return ini


def read_pair(config_path: str) -> tuple[LiteIni, LiteIni]:
    """`--config_path`: one file for both graphs, or `full.ini,inc.ini`.

    Raises:
        ConfigError: more than two files, or as `read_lite_ini`; two files that disagree about the rank table.
    """
    names = [name.strip() for name in config_path.split(",")]
    if len(names) > 2 or not all(names):
        raise ConfigError("--config_path", f"got {config_path!r}.", fix="one file, or two with a comma between: full.ini,inc.ini.")
    full = read_lite_ini(names[0])
    inc = read_lite_ini(names[1]) if len(names) == 2 else full
    if full.rank_table != inc.rank_table:
        problem = f"names {inc.rank_table or 'no rank table'}, but {full.path} names {full.rank_table or 'none'}."
        raise ConfigError(inc.where(ASCEND, "rank_table_file"), problem, fix="write the same rank table into both.")
    return full, inc


def _parse(path: Path, text: str, found: list[CodeLlamaError]) -> LiteIni:
    sections: dict[str, dict[str, str]] = {}
    lines: dict[tuple[str, str], int] = {}
    current = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line, where = raw.strip(), f"{path}:{number}"
        if not line or line.startswith("#"):
            continue
        if line.startswith(";"):
            found.append(ConfigError(where, "begins with ';', which MindSpore Lite takes for a key.", fix="begin comments with #."))
        elif line.startswith("["):
            current = line[1:].removesuffix("]").strip()
            if not line.endswith("]") or not current:
                found.append(ConfigError(where, f"{line!r} is no section.", fix="write [ascend_context]."))
            sections.setdefault(current, {})
        else:
            key, equals, value = (part.strip() for part in line.partition("="))
            if not equals or not key or not current:
                problem = f"{line!r} stands in no section." if equals and key else f"{line!r} is neither key=value nor a section."
                found.append(ConfigError(where, problem, fix="write [section] and below it key=value."))
                continue
            if key in sections[current]:
                problem = f"{key} is written twice; first in line {lines[current, key]}."
                found.append(ConfigError(where, problem, fix="leave one of them out."))
            sections[current][key] = value
            lines[current, key] = number
    return LiteIni(path=path, sections=sections, lines=lines)


def _name_findings(ini: LiteIni) -> list[CodeLlamaError]:
    """Unknown sections and keys."""
    found: list[CodeLlamaError] = []
    for section, keys in ini.sections.items():
        if section not in SECTIONS:
            found.append(ConfigError(f"{ini.path}: [{section}]", "is not a section of MindSpore Lite.", fix=nearest(section, SECTIONS)))
            continue
        for key in keys:
            where = ini.where(section, key)
            if section == ASCEND and key not in ASCEND_CONTEXT:
                other = _section_of(key)
                fix = f"write it into [{other}]." if other else nearest(key, ASCEND_CONTEXT)
                found.append(ConfigError(where, f"is not a key of [{ASCEND}].", fix=fix))
            if section in (GLOBAL, SESSION, GRAPH) and key not in GE_OPTIONS:
                if key in ASCEND_CONTEXT:
                    found.append(ConfigError(where, "is not an option of GE.", fix=f"write it into [{ASCEND}]."))
                elif get_close_matches(key, GE_OPTIONS, n=1, cutoff=0.8):
                    found.append(ConfigError(where, "is not an option of GE.", fix=nearest(key, GE_OPTIONS)))
                else:
                    logger.warning("%s is not known here and goes to GE as it is.", where)
    return found


def _section_of(key: str) -> str:
    return SESSION if key in GE_OPTIONS else ""


def _value_findings(ini: LiteIni) -> list[CodeLlamaError]:
    """Empty and impossible values."""
    found: list[CodeLlamaError] = []
    for section, keys in ini.sections.items():
        for key, value in keys.items():
            where = ini.where(section, key)
            allowed = CHOICES.get(key, ())
            if not value:
                found.append(ConfigError(where, "has no value.", fix="write one, or leave the line out."))
            elif allowed and value not in allowed:
                found.append(ConfigError(where, f"got {value!r}, must be {' or '.join(allowed)}.", fix=nearest(value, allowed)))
    found += _provider_findings(ini)
    found += _plugin_findings(ini)
    found += _table_findings(ini)
    return found


def _provider_findings(ini: LiteIni) -> list[CodeLlamaError]:
    provider = ini.value(ASCEND, "provider")
    if not provider or provider == PROVIDER:
        return []
    problem = f"got {provider!r}; only GE lets two graphs share weights and cache."
    return [ConfigError(ini.where(ASCEND, "provider"), problem, fix=f"write provider={PROVIDER}.")]


def _plugin_findings(ini: LiteIni) -> list[CodeLlamaError]:
    written = ini.value(ASCEND, "plugin_custom_ops")
    names = [name.strip() for name in written.split(",")] if written else []
    where = ini.where(ASCEND, "plugin_custom_ops")
    if len(names) > 1 and {"All", "None"} & set(names):
        return [ConfigError(where, f"got {written}; All and None stand alone.", fix="write plugin_custom_ops=All.")]
    found: list[CodeLlamaError] = []
    for name in names:
        if name in PLUGIN_CUSTOM_OPS:
            continue
        if get_close_matches(name, PLUGIN_CUSTOM_OPS, n=1, cutoff=0.7):
            found.append(ConfigError(where, f"{name!r} is no custom operator.", fix=nearest(name, PLUGIN_CUSTOM_OPS)))
        else:
            logger.warning("%s: %s is not known here and goes to MindSpore Lite as it is.", where, name)
    return found


def _table_findings(ini: LiteIni) -> list[CodeLlamaError]:
    written, where = ini.value(ASCEND, "rank_table_file"), ini.where(ASCEND, "rank_table_file")
    table = ini.rank_table
    if table is None or table.is_file():
        return []
    fix = "write the path of the JSON file that `codellama rank-table make` or tools/hccl_tools.py wrote."
    if written == PLACEHOLDER:
        return [ConfigError(where, f"{PLACEHOLDER} stands for a path.", fix=fix)]
    return [ConfigError(where, f"{table} does not exist.", fix=fix)]


def nearest(name: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown name."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}." if len(known) <= 12 else "see docs/lite.md."
