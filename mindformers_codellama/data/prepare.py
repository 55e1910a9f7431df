"""The journey from files of records or text to a mindrecord with its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mindformers_codellama import __version__
from mindformers_codellama.data.manifest import Manifest, Source
from mindformers_codellama.data.mindrecord import refuse_existing, write_rows
from mindformers_codellama.data.prepare_request import PrepareRequest
from mindformers_codellama.data.prepare_rows import make_rows
from mindformers_codellama.data.prepare_work import open_tokenizer
from mindformers_codellama.data.records import Refused, sha256_of
from mindformers_codellama.data.rows import Row
from mindformers_codellama.data.tally import Tally
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.infilling import infilling_pieces
from mindformers_codellama.text.tokenizer import LlamaTokenizer


@dataclass(frozen=True)
class PrepareReport:
    """What was done."""

    manifest: Manifest
    """As written beside the data (not written in a dry run)."""
    masked: tuple[str, ...]
    """Places of the first samples without a label."""
    skipped: tuple[Refused, ...]
    """The first bad records that were skipped."""


def prepare(request: PrepareRequest) -> PrepareReport:
    """Read, encode, write.

    Raises:
        DataError: bad input (all of the first ten named), an existing output, an empty dataset, a full disk.
        TokenizerError: the tokenizer file.
        GenerationError: infilling tasks are asked for, and the tokenizer has no pieces for them.
    """
    if not request.inputs:
        raise DataError("INPUT", "no file was given.", fix="name files of records, or --text SOURCE for plain text.")
    if not request.dry_run:
        refuse_existing(request.output, request.parts, force=request.force)
    tokenizer = open_tokenizer(request.tokenizer)
    if request.fim is not None:
        infilling_pieces(tokenizer)
    hashes = [sha256_of(path) for path in request.inputs]
    tally = Tally(skip_bad=request.skip_bad)
    rows = _until_end(tally.watch(make_rows(request, tally)), request, tally)
    made: list[Manifest] = []

    def finish(files: Sequence[Path], total: int) -> Manifest:
        made.append(_manifest(request, tokenizer, hashes, tally, files, total))
        return made[0]

    if request.dry_run:
        finish((), sum(1 for _ in rows))
    else:
        write_rows(
            request.output,
            rows,
            columns=request.columns,
            description=request.kind,
            parts=request.parts,
            force=request.force,
            manifest=finish,
        )
    return PrepareReport(made[0], tuple(tally.masked), tuple(tally.named_bad))


def _manifest(  # noqa: PLR0913 - one value per fact
    request: PrepareRequest, tokenizer: LlamaTokenizer, hashes: Sequence[str], tally: Tally, files: Sequence[Path], rows: int
) -> Manifest:
    """What was made of what; asked for after the last row, when the tally is complete."""
    sources = [
        Source(name=path.name, sha256=digest, bytes=path.stat().st_size, records=tally.sources[number] // request.repeat)
        for number, (path, digest) in enumerate(zip(request.inputs, hashes, strict=True))
    ]
    return Manifest(
        kind=request.kind,
        files=tuple(file.name for file in files),
        file_sha256=tuple(sha256_of(file) for file in files),
        columns=request.columns,
        seq_length=request.seq_length,
        rows=rows,
        tokenizer=Path(request.tokenizer).name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=len(tokenizer),
        max_token_id=tally.max_token_id,
        packed=request.pack,
        template=request.template if request.kind == "qa" else "",
        repeat=request.repeat,
        fim=asdict(request.fim) if request.fim is not None else {},
        counts=dict(tally.counts),
        bad_records=dict(tally.bad),
        sources=tuple(sources),
        package_version=__version__,
    )


def _until_end(rows: Iterable[Row], request: PrepareRequest, tally: Tally) -> Iterator[Row]:
    """Pass rows on and complain at the end of them, before anything is published."""
    yield from rows
    _refuse_empty(request, tally)


def _refuse_empty(request: PrepareRequest, tally: Tally) -> None:
    """Raise DataError when there is nothing to learn, with the reason the counts give."""
    if tally.counts["rows"] and (request.kind != "qa" or tally.counts["tokens learned"]):
        return
    masked = tally.counts["samples without a label"]
    if masked:
        raise DataError(
            request.output,
            f"every answer was cut away: all {masked} samples have no label within {request.row_length} ids ({tally.masked[0]}, ...).",
            fix="use a larger --seq-length.",
        )
    tokens = tally.counts["tokens left over"]
    why = f"its {tokens} ids do not fill one row of {request.row_length}" if tokens else "it holds no usable record"
    raise DataError(request.inputs[0], f"the dataset is empty: {why}.", fix="check the input; for short text use a smaller --seq-length.")
