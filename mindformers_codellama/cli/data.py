"""`codellama data convert|prepare|inspect`: records and text to mindrecord, and a look into one."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindformers_codellama.data.fim import FimOptions
    from mindformers_codellama.data.prepare import PrepareReport

EXAMPLES = """examples:
  codellama data prepare alpaca.json --tokenizer tokenizer.model --seq-length 2048 --output alpaca.mindrecord
  codellama data prepare chats.jsonl --skip-bad --pack --tokenizer tokenizer.model --seq-length 4096 --output chats.mindrecord
  codellama data prepare --text python-stdlib --tokenizer codellama_tiny --seq-length 256 --output stdlib.mindrecord
  codellama data prepare --text "src/**/*.py" --fim --pack --tokenizer codellama_tiny --seq-length 1024 --output fim.mindrecord
  codellama data prepare --text python-stdlib --split held-out --tokenizer codellama_tiny --seq-length 256 --output eval.mindrecord
  codellama data prepare --type wiki wiki.train.tokens --tokenizer tokenizer.model --seq-length 4096 --output wiki.mindrecord
  codellama data inspect alpaca.mindrecord --rows 0 5 --tokenizer tokenizer.model
  codellama data convert alpaca.json alpaca-conversation.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three commands under `data`."""
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    for name, add, line in (
        ("convert", _add_convert, "Alpaca, ShareGPT or OpenAI records to MindFormers' conversation file"),
        ("prepare", _add_prepare, "records or text to a mindrecord with a manifest"),
        ("inspect", _add_inspect, "what a mindrecord holds, its manifest and rows"),
    ):
        add(commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.", allow_abbrev=False))


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help="JSON array or JSON Lines, also .gz")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="conversation file to write")
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="auto", help="alpaca, sharegpt, messages or auto: look at the first record (default)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out records that cannot be used and count them by reason")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="files of records; with --type wiki, WikiText files")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="mindrecord to write, X.mindrecord")
    parser.add_argument("--tokenizer", required=True, metavar="NAME", help="tokenizer.model, its folder, or codellama_tiny (shipped)")
    parser.add_argument("--seq-length", type=int, required=True, metavar="N", help="training length; rows hold one id more")
    parser.add_argument("--type", choices=("qa", "wiki", "text"), help="qa: conversations (default); wiki; text: as --text")
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="SOURCE", help="plain text or code: files, folders, quoted globs, or python-stdlib"
    )
    parser.add_argument("--split", choices=("train", "held-out"), default="train", help="part of python-stdlib (default train)")
    parser.add_argument("--held-out", type=float, default=0.05, metavar="F", help="fraction of its files held out (default 0.05)")
    parser.add_argument("--max-bytes", type=int, metavar="N", help="take at most so many bytes of python-stdlib")
    parser.add_argument(
        "--template",
        default="vicuna_v1.1",
        help="text around conversations: vicuna_v1.1 (default), llama2, or with the [templates] extra a FastChat name",
    )
    parser.add_argument("--pack", action="store_true", help="several samples per row, kept apart by segment_ids and position_ids")
    _add_fim(parser)
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="spread the rows over N files")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="go through text N times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")
    parser.add_argument(
        "--all-masked", choices=("drop", "keep", "refuse"), default="drop", help="samples without a label, as when the answer is cut away"
    )
    parser.add_argument("--dry-run", action="store_true", help="do all but write")
    _add_shared(parser)


def _add_fim(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("infilling tasks", "documents cut into prefix, middle and suffix, as Code Llama was trained")
    group.add_argument("--fim", action="store_true", help="make infilling tasks of the documents of --text")
    group.add_argument("--fim-rate", type=float, metavar="F", help="share of the documents, 0 to 1 (default 0.9)")
    group.add_argument("--fim-spm-rate", type=float, metavar="F", help="share of them in the order suffix, prefix, middle (default 0.5)")
    group.add_argument("--fim-line-rate", type=float, metavar="F", help="share of them whose middle lies in one line (default 0)")
    group.add_argument("--fim-seed", type=int, metavar="N", help="of the random cuts (default 0)")
    group.add_argument(
        "--fim-part-from", type=float, metavar="F", help="shortest part of a document longer than a row, as a share of a row (default 0.1)"
    )
    group.add_argument("--fim-loss", metavar="WHAT", help="all: learn every id (default); middle: of a task its middle alone")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE", help="a mindrecord, or a folder")
    parser.add_argument("--rows", type=int, nargs="*", default=[0], metavar="N", help="rows to show (default 0)")
    parser.add_argument("--tokenizer", metavar="NAME", help="show ids as text")
    parser.add_argument("--verify", action="store_true", help="read every byte and compare with the manifest's checksums")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to the command under `data`."""
    return {"convert": run_convert, "prepare": run_prepare, "inspect": run_inspect}[arguments.data_command](arguments)


def run_convert(arguments: argparse.Namespace) -> int:
    """Write a conversation file."""
    from mindformers_codellama.data.convert import convert_records

    report = convert_records(arguments.input, arguments.output, form=arguments.format, skip_bad=arguments.skip_bad, force=arguments.force)
    if arguments.json:
        print(json.dumps(asdict(report) | {"output": str(arguments.output)}, indent=2))
        return 0
    print(f"{report.records} conversations ({report.form}) written to {arguments.output}")
    for reason, count in report.skipped.items():
        print(f"  skipped, {reason}: {count}")
    if report.unanswered:
        print(f"  last question without an answer left out: {report.unanswered}")
    return 0


def run_prepare(arguments: argparse.Namespace) -> int:
    """Write a mindrecord and its manifest."""
    from mindformers_codellama.data.prepare import prepare
    from mindformers_codellama.data.prepare_request import PrepareRequest
    from mindformers_codellama.data.text_source import find_text_files
    from mindformers_codellama.errors import DataError

    fim = _fim_options(arguments)
    kind = arguments.type or ("text" if arguments.text else "qa")
    inputs = list(arguments.inputs)
    if arguments.text and kind == "qa":
        raise DataError("--text", "is for plain text, not for --type qa.", fix="leave --type out, or give the records as INPUT.")
    sources = [*(str(path) for path in inputs), *arguments.text] if kind == "text" else arguments.text
    if sources:
        files = find_text_files(sources, split=arguments.split, held_out=arguments.held_out, max_bytes=arguments.max_bytes)
        inputs = files if kind == "text" else [*inputs, *files]
    request = PrepareRequest(
        inputs=tuple(inputs),
        output=arguments.output,
        tokenizer=arguments.tokenizer,
        seq_length=arguments.seq_length,
        kind=kind,
        form=arguments.format,
        template=arguments.template,
        pack=arguments.pack,
        fim=fim,
        parts=arguments.parts,
        repeat=arguments.repeat,
        workers=arguments.workers,
        skip_bad=arguments.skip_bad,
        all_masked=arguments.all_masked,
        force=arguments.force,
        dry_run=arguments.dry_run,
    )
    report = prepare(request)
    if arguments.json:
        print(json.dumps({"output": str(arguments.output), "dry_run": arguments.dry_run} | asdict(report), indent=2, ensure_ascii=False))
    else:
        print_report(report, arguments.output, dry_run=arguments.dry_run, all_masked=arguments.all_masked)
    return 0


def _fim_options(arguments: argparse.Namespace) -> FimOptions | None:
    """What `--fim` and its companions ask for; companions without it are refused."""
    from mindformers_codellama.data.fim import FimOptions
    from mindformers_codellama.errors import DataError

    given = {name: getattr(arguments, f"fim_{name}") for name in ("rate", "spm_rate", "line_rate", "seed", "part_from", "loss")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not arguments.fim:
        raise DataError(f"--fim-{next(iter(given)).replace('_', '-')}", "has no effect without --fim.", fix="add --fim.")
    return FimOptions(**given) if arguments.fim else None


def print_report(report: PrepareReport, output: Path, *, dry_run: bool, all_masked: str) -> None:
    """Counts for a person."""
    manifest = report.manifest
    done = "would be written to" if dry_run else "written to"
    print(f"{manifest.rows} rows of {manifest.seq_length + 1} ids ({', '.join(manifest.columns)}) {done} {output}")
    for name, count in manifest.counts.items():
        if count and name != "rows":
            print(f"  {name}: {count}")
    for reason, count in manifest.bad_records.items():
        print(f"    {reason}: {count}")
    for place in report.masked:
        print(f"  without a label, {'kept' if all_masked == 'keep' else 'dropped'}: {place}")
    for refused in report.skipped:
        print(f"  skipped: {refused.where}: {refused.detail}")


def run_inspect(arguments: argparse.Namespace) -> int:
    """Show a mindrecord."""
    from mindformers_codellama.data.inspect import inspect_mindrecord

    found = inspect_mindrecord(arguments.path, rows=arguments.rows, tokenizer=arguments.tokenizer, verify=arguments.verify)
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return 0
    print(f"{found.rows} rows of {found.row_length} ids ({', '.join(found.columns)}): write seq_length: {found.row_length - 1}")
    for file in found.files:
        print(f"  {file}")
    for name, value in _manifest_lines(found.as_dict()["manifest"]):
        print(f"  {name}: {value}")
    for row in found.shown:
        print(f"row {row['row']}: " + ", ".join(f"{name} {row[name]}" for name in ("tokens", "learned", "samples") if name in row))
        for name in ("input_ids", "text", "learned_text"):
            if name in row:
                print(f"  {name}: {row[name]}")
    return 0


def _manifest_lines(manifest: dict[str, Any] | None) -> list[tuple[str, Any]]:
    if manifest is None:
        return [("manifest", "none; the file was not written by this package, or its manifest was not copied")]
    names = (
        "kind",
        "template",
        "packed",
        "fim",
        "vocab_size",
        "tokenizer_sha256",
        "max_token_id",
        "counts",
        "bad_records",
        "package_version",
    )
    lines = [(name, manifest[name]) for name in names if manifest[name] not in ("", {})]
    return [*lines, *(("source", f"{source['name']}: {source['records']} records") for source in manifest["sources"][:5])]
