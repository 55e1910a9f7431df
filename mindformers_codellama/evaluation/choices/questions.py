"""Questions of a suite from its CSV files: `dev/`, `val/` and `test/` with `SUBJECT_dev.csv` and so on, as they are published.

MMLU's files have six columns and no header: question, A, B, C, D, answer. C-Eval's have a header: id, question, A, B, C, D, and
answer and explanation except in `test/`. Every field is taken as the text it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mindformers_codellama.errors import CodeLlamaError, ConfigError, DataError, Findings, raise_all
from mindformers_codellama.evaluation.choices.suites import LETTERS, Suite

logger = logging.getLogger(__name__)

SPLITS = ("test", "val")
SHOTS_SPLIT = "dev"
"""Where solved examples come from."""
_COLUMNS = ("question", *LETTERS, "answer")
_MOST = 10
"""Findings told at once."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with four answers."""

    number: int
    """From 0, over all questions of the files in alphabetical order of the subjects."""
    subject: str
    row: str
    """Its id within the subject: the column `id`, or the place from 0."""
    text: str
    choices: tuple[str, ...]
    """A to D."""
    answer: str
    """The right letter; empty when it is not published."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """The questions of one split, with the solved examples that come before them."""

    suite: Suite
    split: str
    sha256: str
    """Of the files of the split."""
    examples_sha256: str
    """Of the files the examples come from."""
    questions: tuple[Question, ...]
    examples: Mapping[str, tuple[Question, ...]]
    """Of each subject: the first of `dev`."""

    @property
    def subjects(self) -> tuple[str, ...]:
        """Those that have questions, in order."""
        return tuple(dict.fromkeys(question.subject for question in self.questions))

    @property
    def has_answers(self) -> bool:
        """Whether the right letters are known."""
        return all(question.answer for question in self.questions)

    def chosen(self, subjects: tuple[str, ...] = (), limit: int | None = None) -> tuple[Question, ...]:
        """Questions of some subjects, the first `limit` of each; nothing said takes all.

        Raises:
            ConfigError: a subject that is not there, with the nearest name.
        """
        for name in subjects:
            if name not in self.subjects:
                near = get_close_matches(name, self.subjects, n=1)
                fix = f"write {near[0]}." if near else f"one of {', '.join(self.subjects)}."
                raise ConfigError("--subjects", f"{name!r} has no questions here.", fix=fix)
        found: list[Question] = []
        for name in subjects or self.subjects:
            found += [question for question in self.questions if question.subject == name][:limit]
        return tuple(sorted(found, key=lambda question: question.number))


def data_folder(folder: Path) -> Path:
    """Where `dev`, `val` and `test` are: the folder, or `data` in it.

    Raises:
        DataError: in neither.
    """
    for place in (folder, folder / "data"):
        if any((place / split).is_dir() for split in (*SPLITS, SHOTS_SPLIT)):
            return place
    raise DataError(folder, "has no folder dev, val or test.", fix="give the folder that the suite's archive was unpacked to.")


def read_exam(folder: Path, suite: Suite, *, split: str = "", shots: int = 5) -> Exam:
    """Read and check every file of a split, and the examples.

    Args:
        folder: see `data_folder`.
        suite: which one.
        split: `test` or `val`; empty is the suite's own.
        shots: solved examples before each question, at least 0.

    Raises:
        DataError: files that are missing or damaged, with line and field; several at once.
    """
    split = split or suite.split
    place = data_folder(folder)
    digest, examples_digest = hashlib.sha256(), hashlib.sha256()
    findings: list[CodeLlamaError] = _unknown_files(place / split, suite, split)
    questions: list[Question] = []
    examples: dict[str, tuple[Question, ...]] = {}
    for name in suite.subjects:
        path = place / split / f"{name}_{split}.csv"
        if not path.is_file():
            continue
        try:
            questions += _file(path, suite, name, first=len(questions), digest=digest)
            examples[name] = _examples(place / SHOTS_SPLIT / f"{name}_{SHOTS_SPLIT}.csv", suite, name, shots, examples_digest)
        except CodeLlamaError as error:
            findings += error if isinstance(error, Findings) else [error]
    raise_all(findings[:_MOST])
    unanswered = [question for question in questions if not question.answer]
    if unanswered and len(unanswered) < len(questions):
        first = f"id {unanswered[0].row} of {unanswered[0].subject}"
        raise DataError(place / split, f"{len(unanswered)} of {len(questions)} questions have no answer, the first is {first}.")
    if not questions:
        fix = f"its files are named like {next(iter(suite.subjects))}_{split}.csv."
        raise DataError(place / split, f"holds no questions of {suite.title}.", fix=fix)
    missing = [name for name in suite.subjects if name not in examples]
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        logger.warning("%d of %d subjects of %s are there: without %s.", len(examples), len(suite.subjects), suite.title, some)
    hashes = {"sha256": digest.hexdigest(), "examples_sha256": examples_digest.hexdigest()}
    return Exam(suite=suite, split=split, questions=tuple(questions), examples=examples, **hashes)


def _unknown_files(folder: Path, suite: Suite, split: str) -> list[CodeLlamaError]:
    findings: list[CodeLlamaError] = []
    for path in sorted(folder.glob("[!.]*.csv")):
        name = path.stem.removesuffix(f"_{split}")
        if name in suite.subjects and path.stem.endswith(f"_{split}"):
            continue
        near = get_close_matches(name, suite.subjects, n=1)
        fix = f"is it {near[0]}_{split}.csv?" if near else "move it away."
        findings.append(DataError(path, f"is no file of {suite.title}'s {split} split.", fix=fix))
    return findings


def _examples(path: Path, suite: Suite, subject: str, shots: int, digest: hashlib._Hash) -> tuple[Question, ...]:
    if not shots:
        return ()
    if not path.is_file():
        raise DataError(path, "is missing: the examples before each question come from it.", fix="add it, or ask with --shots 0.")
    found = _file(path, suite, subject, first=0, digest=digest)
    if len(found) < shots:
        raise DataError(path, f"has {len(found)} examples, {shots} are asked for.", fix=f"--shots {len(found)}.")
    if not all(question.answer for question in found[:shots]):
        raise DataError(path, "has examples without an answer.")
    return tuple(found[:shots])


def _file(path: Path, suite: Suite, subject: str, *, first: int, digest: hashlib._Hash) -> list[Question]:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}", "is not UTF-8 text.", fix="copy the file again.") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}.") from error
    digest.update(f"{path.parent.name}/{path.name}\0{len(data)}\0".encode() + data)
    rows = _rows(path, text)
    columns = _header(path, next(rows, None)) if suite.has_header else dict(zip(_COLUMNS, range(6), strict=True))
    questions: list[Question] = []
    findings: list[CodeLlamaError] = []
    for line, fields in rows:
        try:
            questions.append(_question(f"{path}:{line}", fields, columns, subject, first + len(questions), len(questions)))
        except DataError as error:
            findings.append(error)
    raise_all(findings[:_MOST])
    if not questions:
        raise DataError(path, "holds no question.")
    return questions


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of every row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}", f"is not CSV: {error}.", fix="quote fields that hold commas, quotes or new lines.") from error


def _header(path: Path, row: tuple[int, list[str]] | None) -> dict[str, int]:
    """Column name to place."""
    names = [name.strip() for name in row[1]] if row else []
    missing = [name for name in ("id", *_COLUMNS[:-1]) if name not in names]
    if missing:
        problem = f"has no column {', '.join(missing)}."
        raise DataError(f"{path}:1", problem, fix=f"its first line is id,{','.join(_COLUMNS)}, without the answer in test.")
    return {name: place for place, name in enumerate(names)}


def _question(where: str, fields: list[str], columns: Mapping[str, int], subject: str, number: int, place: int) -> Question:
    if len(fields) != len(columns):
        raise DataError(where, f"has {len(fields)} fields, must have {len(columns)}: {', '.join(columns)}.")
    values = {name: fields[at] for name, at in columns.items()}
    answer = values.get("answer", "").strip()
    if not values["question"].strip():
        raise DataError(f"{where}, field {columns['question'] + 1} (question)", "is empty.")
    if answer not in LETTERS and (answer or "id" not in columns):
        raise DataError(f"{where}, field {columns['answer'] + 1} (answer)", f"got {answer!r}, must be A, B, C or D.")
    return Question(
        number=number,
        subject=subject,
        row=values.get("id", str(place)),
        text=values["question"],
        choices=tuple(values[letter] for letter in LETTERS),
        answer=answer,
    )
