"""Alpaca, ShareGPT and OpenAI records to the conversation file of MindFormers' `alpaca_converter.py`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from mindformers_codellama.data.conversation import BadRecord, Conversation, form_of, to_conversation
from mindformers_codellama.data.records import NAMED, Record, Refused, raise_refused, read_records, total_bytes
from mindformers_codellama.data.text_file import new_text_file
from mindformers_codellama.errors import DataError


@dataclass(frozen=True)
class ConvertReport:
    """What was written."""

    form: str
    """Kind of the records read."""
    records: int
    """Conversations written."""
    skipped: dict[str, int]
    """Bad records by reason."""
    unanswered: int
    """Conversations whose last question had no answer and was left out."""


def convert_records(
    source: Path, target: Path, *, form: str = "auto", skip_bad: bool = False, force: bool = False, progress: bool | None = None
) -> ConvertReport:
    """Write `[{"id": "1", "conversations": [{"from": "human", ...}, {"from": "gpt", ...}]}, ...]`, indented by 2.

    One record is in memory at a time. Equals `json.dump(..., indent=2, ensure_ascii=False)` of the whole list.

    Raises:
        DataError: bad records, up to ten named at once, unless they are skipped; an existing target, or one that is the
            source; an empty file.
    """
    if source.exists() and target.exists() and target.samefile(source):
        raise DataError(target, "is the input itself.", fix="write to another name.")
    skipped: Counter[str] = Counter()
    written = unanswered = 0
    with tqdm(
        total=total_bytes([source]), unit="B", unit_scale=True, desc="convert", disable=None if progress is None else not progress
    ) as bar:
        records = read_records(source, bar.update)
        first = next(records, None)
        if first is None:
            raise DataError(source, "holds no record.", fix="give a JSON array or one JSON object per line.")
        if form == "auto":
            form = form_of(first)
        with new_text_file(target, force=force) as file:
            for conversation in _conversations(chain([first], records), form, skip_bad, skipped):
                written += 1
                unanswered += conversation.dropped_turn
                file.write(("[\n  " if written == 1 else ",\n  ") + _as_json(written, conversation))
            if not written:
                raise DataError(source, "holds no usable record.", fix="correct the records.")
            file.write("\n]")
    return ConvertReport(form, written, dict(skipped), unanswered)


def _conversations(records: Iterator[Record], form: str, skip_bad: bool, skipped: Counter[str]) -> Iterator[Conversation]:
    found: list[Refused] = []
    for record in records:
        try:
            if record.problem:
                raise BadRecord("not readable", record.problem)
            conversation = to_conversation(record.value, form)
            _check_text(conversation)
        except BadRecord as error:
            skipped[error.reason] += 1
            if not skip_bad:
                found.append(Refused(str(record.place), error.reason, str(error)))
            if len(found) == NAMED:
                break
        else:
            yield conversation
    raise_refused(found)


def _check_text(conversation: Conversation) -> None:
    for text in chain(*conversation.turns, [conversation.system or ""]):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecord("not text", f"character {error.start} is a lone surrogate") from error


def _as_json(number: int, conversation: Conversation) -> str:
    messages = [{"from": "system", "value": conversation.system}] if conversation.system is not None else []
    for question, answer in conversation.turns:
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    text = json.dumps({"id": str(number), "conversations": messages}, indent=2, ensure_ascii=False)
    return text.replace("\n", "\n  ")
