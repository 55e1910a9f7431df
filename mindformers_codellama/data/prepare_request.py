"""What a person asks of one preparation, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.data.conversation import FORMATS
from mindformers_codellama.data.fim import LEAST_LENGTH, FimOptions
from mindformers_codellama.data.template import DEFAULT_TEMPLATE, open_template
from mindformers_codellama.errors import DataError

SUFFIX = ".mindrecord"
KINDS = ("qa", "wiki", "text")
ALL_MASKED = ("drop", "keep", "refuse")
_COLUMNS = {"qa": ("input_ids", "labels"), "wiki": ("input_ids",), "text": ("input_ids",)}
_PACKED_COLUMNS = ("input_ids", "labels", "segment_ids", "position_ids")


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """Everything one preparation depends on; checked at birth."""

    inputs: tuple[Path, ...]
    output: Path
    tokenizer: str
    """Name, directory or file."""
    seq_length: int
    """Training length; rows hold one id more."""
    kind: str = "qa"
    """qa: conversations; wiki: WikiText as MindFormers reads it; text: plain text and code, a document per file."""
    form: str = "auto"
    """alpaca, sharegpt, messages, or auto: look at the first record of each file."""
    template: str = DEFAULT_TEMPLATE
    pack: bool = False
    fim: FimOptions | None = None
    """Make infilling tasks of documents (text)."""
    parts: int = 1
    repeat: int = 1
    """Go through the input so many times (wiki and text)."""
    workers: int = 1
    """Processes; with more than 1 a script that calls this needs the `if __name__ == "__main__"` guard."""
    skip_bad: bool = False
    all_masked: str = "drop"
    """What to do with a sample whose answer was cut away wholly: drop, keep (as MindFormers does) or refuse."""
    force: bool = False
    dry_run: bool = False
    """Do all but write."""
    progress: bool | None = None
    """True and False force a bar on and off; None shows one on a terminal."""

    def __post_init__(self) -> None:
        if not self.output.name.endswith(SUFFIX):
            fix = f"write {self.output.name}{SUFFIX}."
            raise DataError(self.output, f"does not end with {SUFFIX}: a folder of data would not find it.", fix=fix)
        if self.output.resolve() in {path.resolve() for path in self.inputs}:
            raise DataError(self.output, "is also an input.", fix="write to another name.")
        for name, value, allowed in (
            ("kind", self.kind, KINDS),
            ("format", self.form, ("auto", *FORMATS)),
            ("all-masked", self.all_masked, ALL_MASKED),
        ):
            if value not in allowed:
                raise DataError(name, f"got {value!r}.", fix=f"write one of {', '.join(allowed)}.")
        for name, number, low in (
            ("seq-length", self.seq_length, 2),
            ("parts", self.parts, 1),
            ("repeat", self.repeat, 1),
            ("workers", self.workers, 1),
        ):
            if number < low:
                raise DataError(f"--{name}", f"got {number}, must be at least {low}.")
        if self.parts > 1000:
            raise DataError("parts", f"got {self.parts}, MindRecord allows at most 1000.")
        if self.kind == "wiki" and self.pack:
            raise DataError("pack", "wiki rows are cut from one stream, as MindFormers does.", fix="use --type text to pack documents.")
        if self.kind == "qa" and self.repeat > 1:
            raise DataError("repeat", "is for wiki and text.", fix="write train_dataset.repeat in the YAML.")
        if self.fim is not None and self.kind != "text":
            problem = f"makes infilling tasks of documents, and rows of type {self.kind} are not cut from documents."
            raise DataError("--fim", problem, fix="give source code or text with --text.")
        if self.fim is not None and self.seq_length < LEAST_LENGTH:
            raise DataError("--seq-length", f"got {self.seq_length}, with --fim it must be at least {LEAST_LENGTH}.")
        open_template(self.template)

    @property
    def row_length(self) -> int:
        """Ids per row."""
        return self.seq_length + 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the rows."""
        if self.pack:
            return _PACKED_COLUMNS
        return _COLUMNS["qa" if self.fim is not None and self.fim.loss == "middle" else self.kind]
