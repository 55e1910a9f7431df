"""`codellama eval perplexity`: how surprised a model is by texts."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.eval_output import REPORT, SETTINGS, bar, keep_settings, model_settings, write_json
from mindformers_codellama.cli.generation_options import MODEL_HELP, add_opening_arguments, open_from
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.errors import ConfigError, DataError
from mindformers_codellama.evaluation.documents import KINDS, Document, names, read_documents, total
from mindformers_codellama.evaluation.perplexity import perplexity_report, window_losses
from mindformers_codellama.evaluation.windows import Window, require_stride, sliding_windows

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.open_model import OpenedModel

LOSSES = "windows.jsonl"
EXAMPLES = """examples:
  codellama eval perplexity CodeLlama-7b-hf --data python-stdlib --window 2048 --stride 1024 --output ppl_7b
  codellama eval perplexity CodeLlama-7b-hf --data "src/**/*.py" --json
  codellama eval perplexity llama-2-7b --data wiki.valid.tokens --type wiki --window 4096
  codellama eval perplexity CONFIG --load-checkpoint CKPT --data held_out.mindrecord
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """Texts, windows, the model."""
    suite.add_argument("model", metavar="CONFIG|DIR", help=MODEL_HELP)
    suite.add_argument(
        "--data", nargs="+", required=True, metavar="SOURCE", help="files, folders, quoted globs, python-stdlib, or one .mindrecord"
    )
    suite.add_argument("--type", dest="kind", choices=KINDS, default="text", help="wiki: WikiText, cleaned as for training (default: text)")
    suite.add_argument("--split", choices=("held-out", "train"), default="held-out", help="which part of python-stdlib")
    suite.add_argument("--window", type=int, metavar="N", help="tokens read at once; default: the model's positions")
    suite.add_argument("--stride", type=int, metavar="N", help="tokens from window to window; default: the window, so each is read once")
    suite.add_argument("--limit", type=int, metavar="N", help="the first N windows alone")
    suite.add_argument("--batch-size", type=int, default=1, metavar="N", help="windows at once (default 1)")
    suite.add_argument("--output", type=Path, metavar="DIR", help=f"holds {LOSSES} and {REPORT}; run again, it is gone on with")
    suite.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON")
    suite.add_argument("--dry-run", action="store_true", help="read the data and the model, and say what would be done")
    add_opening_arguments(suite)


def run(arguments: argparse.Namespace) -> int:
    """Read, measure, report."""
    for name in ("limit", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", f"got {value}, must be at least 1.")
    rows = mindrecord(arguments)
    documents = [] if rows else read_documents(arguments.data, kind=arguments.kind, split=arguments.split)
    opened = open_from(arguments, alone="eval")
    every, made = (of_rows if rows else of_documents)(arguments, opened, documents)
    windows = every[: arguments.limit]
    if arguments.dry_run:
        print(f"{len(windows)} of {len(every)} windows, {sum(len(one.tokens) for one in windows)} tokens to read")
        return 0
    if arguments.output is not None:
        keep_settings(arguments.output / SETTINGS, made, begun=(arguments.output / LOSSES).exists())
    losses = measure(arguments, opened, windows)
    amounts = total(documents) if documents and len(windows) == len(every) else {}
    tokens = sum(int(window.counts.sum()) for window in windows)
    found = (
        {"suite": "perplexity"}
        | perplexity_report(losses, tokens, words=amounts.get("words", 0), bytes_=amounts.get("bytes", 0))
        | amounts
        | {"made": made}
    )
    if arguments.output is not None:
        write_json(arguments.output / REPORT, found)
    print(json.dumps(found) if arguments.as_json else told(found))
    return 0


def mindrecord(arguments: argparse.Namespace) -> bool:
    """Whether the data is a mindrecord.

    Raises:
        ConfigError: it is, with other data or with options for texts.
    """
    if not any(source.endswith(".mindrecord") for source in arguments.data):
        return False
    if len(arguments.data) > 1:
        raise ConfigError("--data", "a mindrecord stands alone.", fix="give one set at a time.")
    for name in ("window", "stride"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name}", "is for texts; the rows of a mindrecord are its windows.", fix=f"leave --{name} out.")
    return True


def of_documents(arguments: argparse.Namespace, opened: OpenedModel, documents: list[Document]) -> tuple[list[Window], dict[str, Any]]:
    """Windows over texts, each document behind a begin token, and how they are made.

    Raises:
        ConfigError: a window or stride that cannot be.
        DataError: texts without a token.
    """
    positions = opened.model.decoder(use_past=True).max_length
    window = positions if arguments.window is None else arguments.window
    stride = window if arguments.stride is None else arguments.stride
    require_stride(window, stride, positions)
    windows = [
        one
        for document in documents
        for one in sliding_windows(
            document.name, opened.tokenizer.encode_pieces(document.text, bos=True, eos=False), window=window, stride=stride
        )
    ]
    if not windows:
        raise DataError(", ".join(arguments.data), "holds no token to predict.")
    digest = hashlib.sha256()
    for part in names(documents):
        digest.update(part.encode())
    made = {"data": arguments.data, "data_sha256": digest.hexdigest(), "type": arguments.kind, "split": arguments.split}
    return windows, model_settings(arguments, opened) | made | {"window": window, "stride": stride}


def of_rows(arguments: argparse.Namespace, opened: OpenedModel, documents: list[Document]) -> tuple[list[Window], dict[str, Any]]:
    """Windows that are the rows of a mindrecord, and how they are made."""
    from mindformers_codellama.evaluation.row_windows import row_windows

    path = Path(arguments.data[0])
    windows = list(row_windows(path, opened.model.config))
    if not windows:
        raise DataError(path, "every label is masked: there is no token to evaluate.", fix="prepare the data again.")
    digest = hashlib.sha256(b"".join(part.tobytes() for one in windows for part in (one.tokens, one.labels, one.counts)))
    return windows, model_settings(arguments, opened) | {"data": arguments.data, "data_sha256": digest.hexdigest()}


def measure(arguments: argparse.Namespace, opened: OpenedModel, windows: list[Window]) -> dict[str, float]:
    """The loss of every window, with a bar."""
    from mindformers_codellama.pipelines.row_logits import scoring_logits

    logits = scoring_logits(opened.model, max(len(window.tokens) for window in windows))
    path = None if arguments.output is None else arguments.output / LOSSES
    with bar("window", arguments) as show, stopping_on_interrupt() as should_stop:
        return window_losses(logits, windows, path, batch_size=arguments.batch_size, on_windows=show, should_stop=should_stop)


def told(found: dict[str, Any]) -> str:
    """The report in lines for a person."""
    lines = [f"perplexity {number(found['perplexity'])} per token, loss {found['loss']:.4f} over {found['tokens']} tokens"]
    if "word_perplexity" in found:
        lines.append(f"word perplexity {number(found['word_perplexity'])} over {found['words']} words")
    if "bits_per_byte" in found:
        lines.append(f"{found['bits_per_byte']:.4f} bits per byte over {found['bytes']} bytes of {found['documents']} documents")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """A perplexity, which may be too large for a number."""
    return "too large" if value is None else f"{value:.4f}"
