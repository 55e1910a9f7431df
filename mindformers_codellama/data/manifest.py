"""`X.mindrecord.manifest.json`: what a mindrecord was made of, so a wrong tokenizer or length is found before training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import DataError

SUFFIX = ".manifest.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input file."""

    name: str
    """File name without folders."""
    sha256: str
    bytes: int
    records: int
    """Records, paragraphs or documents read from it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Facts about one mindrecord set."""

    kind: str
    """qa, wiki or text."""
    files: tuple[str, ...]
    """Names of all parts, in order, beside this file."""
    file_sha256: tuple[str, ...] = ()
    """SHA-256 of each part; `codellama data inspect --verify` compares them."""
    columns: tuple[str, ...]
    seq_length: int
    """Rows hold seq_length + 1 ids."""
    rows: int
    tokenizer_sha256: str
    vocab_size: int
    """Size of the tokenizer."""
    tokenizer: str = ""
    """Its name as the person gave it, without folders."""
    max_token_id: int
    """Largest id in any row."""
    packed: bool = False
    template: str = ""
    """Conversation template of qa rows."""
    repeat: int = 1
    fim: dict[str, float | int | str] = field(default_factory=dict)
    """Of documents made infilling tasks: rate, spm_rate, line_rate, seed, part_from, loss; empty when they were not."""
    counts: dict[str, int] = field(default_factory=dict)
    """What happened to the records; the names are those the command prints."""
    bad_records: dict[str, int] = field(default_factory=dict)
    """Skipped records by reason."""
    sources: tuple[Source, ...] = ()
    package_version: str = ""
    schema_version: int = VERSION


def manifest_path(data_file: Path) -> Path:
    """Where the manifest of a mindrecord stands; `x.mindrecord0`, `x.mindrecord1` ... share that of `x.mindrecord`."""
    own = data_file.with_name(data_file.name + SUFFIX)
    stem = data_file.name.rstrip("0123456789")
    shared = data_file.with_name(stem + SUFFIX)
    return shared if stem != data_file.name and not own.exists() else own


def manifest_text(manifest: Manifest) -> str:
    """JSON, indented, keys in the order of the fields."""
    return json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"


def read_manifest(data_file: Path) -> Manifest | None:
    """The manifest beside a mindrecord; None when there is none, as beside a file MindFormers wrote.

    Raises:
        DataError: damaged, or written by a later version.
    """
    path = manifest_path(data_file)
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["schema_version"] > VERSION:
            raise DataError(path, f"was written by a later version ({values['package_version']}).", fix="update this package.")
        known = {item.name for item in fields(Manifest)}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known}
        values["sources"] = tuple(Source(**source) for source in values.get("sources", ()))
        return Manifest(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            path, f"is damaged ({error}).", fix="prepare the data again, or delete this file to read without its checks."
        ) from error
