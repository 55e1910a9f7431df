"""`cache.csv` as the ATB scripts write it, and the details beside it; what a killed run left is gone on with.

A line is `question_id,task_name,right letter,given letter`, without a header.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import CodeLlamaError, DataError, raise_all
from mindformers_codellama.evaluation.choices.answers import Answer
from mindformers_codellama.evaluation.choices.prompts import Prompt
from mindformers_codellama.evaluation.choices.questions import Question
from mindformers_codellama.evaluation.samples import LineFile

CACHE, ANSWERS = "cache.csv", "answers.jsonl"


@dataclass(frozen=True)
class Given:
    """The answer to one question."""

    letter: str
    shots: int | None
    """Solved examples in the prompt; None when it did not fit even without any."""

    @classmethod
    def of(cls, prompt: Prompt, answer: Answer) -> Given:
        """From what was asked and said."""
        return cls(answer.letter, prompt.shots if prompt.ids else None)


def cache_line(question: Question, letter: str) -> str:
    """A line of `cache.csv`."""
    return f"{question.number},{question.subject},{question.answer},{letter}"


def answer_record(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    """A line of `answers.jsonl`."""
    question = prompt.question
    record = {"question_id": question.number, "task_name": question.subject, "id": question.row, "truth": question.answer}
    record |= {"predict": answer.letter, "shots": prompt.shots, "prompt_tokens": len(prompt.ids)}
    if answer.logprobs:
        record["logprobs"] = [round(value, 6) for value in answer.logprobs]
    return record | ({"text": answer.text} if answer.text else {})


class Records:
    """Both files, open to be gone on with. What is in `cache.csv` is done; its line is written last.

    Args:
        folder: made when it is not there.

    Raises:
        DataError: a file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._answers = LineFile(folder / ANSWERS)
        self._cache = LineFile(folder / CACHE)

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *error: object) -> None:
        self._answers.close()
        self._cache.close()

    def add(self, pairs: Iterable[tuple[Prompt, Answer]]) -> None:
        """Append answers; they are on the disk when this returns."""
        pairs = list(pairs)
        self._answers.write(answer_record(prompt, answer) for prompt, answer in pairs)
        self._cache.write_lines(cache_line(prompt.question, answer.letter) for prompt, answer in pairs)


def read_given(folder: Path, questions: Sequence[Question], *, asked_shots: int = 5) -> dict[int, Given]:
    """Answers that are there already, by question number; a half last line does not count.

    Args:
        folder: of `Records`.
        questions: of the data.
        asked_shots: examples a prompt has when there is room; taken for the answers when the file of details is lost.

    Raises:
        DataError: lines that are not of these questions.
    """
    path = folder / CACHE
    if not path.exists():
        return {}
    known = {question.number: question for question in questions}
    shots = _shots(folder / ANSWERS)
    full = max(shots.values(), key=lambda value: value or 0, default=asked_shots)
    found: dict[int, Given] = {}
    findings: list[CodeLlamaError] = []
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            question, letter = _parsed(f"{path}:{number}", line, known)
        except DataError as error:
            findings.append(error)
            continue
        found[question.number] = Given(letter, shots.get(question.number, full))
    raise_all(findings[:10])
    return found


def _parsed(where: str, line: str, known: Mapping[int, Question]) -> tuple[Question, str]:
    fields = line.rstrip("\r").split(",")
    fix = "move the folder away, or give the data it was made with."
    if len(fields) != 4:
        raise DataError(where, f"has {len(fields)} fields, must have 4: question_id, task_name, truth, predict.", fix=fix)
    question = known.get(int(fields[0])) if fields[0].isdecimal() else None
    if question is None:
        raise DataError(f"{where}, field 1 (question_id)", f"{fields[0]!r} is no question of this data.", fix=fix)
    if fields[1] != question.subject:
        raise DataError(
            f"{where}, field 2 (task_name)", f"{fields[1]!r}, but question {question.number} is of {question.subject}.", fix=fix
        )
    if fields[2] != question.answer:
        raise DataError(f"{where}, field 3 (truth)", f"{fields[2]!r}, but the answer is {question.answer!r}.", fix=fix)
    return question, fields[3]


def _shots(path: Path) -> dict[int, int | None]:
    """Of each question in the details; lines that are something else do not count."""
    found: dict[int, int | None] = {}
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
                found[record["question_id"]] = int(record["shots"]) if record["prompt_tokens"] else None
            except (ValueError, KeyError, TypeError):
                continue
    return found
