"""Averages of a multiple-choice suite: by subject, by category, over questions (micro) and over subjects (macro)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_codellama.evaluation.choices.questions import Exam, Question
from mindformers_codellama.evaluation.choices.records import Given
from mindformers_codellama.evaluation.choices.suites import HARD, LETTERS
from mindformers_codellama.evaluation.pass_at_k import wilson_interval
from mindformers_codellama.evaluation.published import published

CLASSES, SUBJECTS = "summary_classes_acc.json", "summary_subject_acc.json"
PUBLISHED_SHOTS = 5


@dataclass(frozen=True)
class Tally:
    """Right answers of some questions."""

    right: int
    questions: int

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.right / self.questions

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(self.right + other.right, self.questions + other.questions)


@dataclass(frozen=True)
class Scores:
    """Tallies of the subjects that were asked."""

    subjects: Mapping[str, Tally]
    category_of: Mapping[str, str]
    """Of every subject of the suite."""
    categories: tuple[str, ...]

    @property
    def all(self) -> Tally:
        """Over all questions (micro)."""
        return sum(self.subjects.values(), Tally(0, 0))

    @property
    def macro(self) -> float:
        """Mean of the subjects' accuracies, each the same weight."""
        return _mean(list(self.subjects.values()))

    def of_category(self, category: str) -> dict[str, Tally]:
        """Its subjects."""
        return {name: tally for name, tally in self.subjects.items() if self.category_of[name] == category}

    @property
    def hard(self) -> Tally | None:
        """Over the questions of hard subjects; None when none was asked."""
        tallies = [tally for name, tally in self.subjects.items() if name in HARD]
        return sum(tallies, Tally(0, 0)) if tallies else None


def scores(exam: Exam, questions: Sequence[Question], given: Mapping[int, Given]) -> Scores:
    """Count right answers.

    Args:
        exam: of the questions.
        questions: all of them are in `given`.
        given: answers; those of other questions do not count.
    """
    total = Counter(question.subject for question in questions)
    right = Counter(question.subject for question in questions if given[question.number].letter == question.answer)
    facts = exam.suite.subjects
    tallies = {name: Tally(right[name], total[name]) for name in facts if total[name]}
    return Scores(tallies, {name: fact.category for name, fact in facts.items()}, exam.suite.categories)


def classes_summary(found: Scores) -> dict[str, float]:
    """`summary_classes_acc.json`: categories, `Avg` and `Avg(Hard)`, each over its questions.

    The ATB scripts divide the right answers of hard subjects by all questions; here they are divided by those of hard subjects, and
    the key is left out when there are none.
    """
    summary = {name: _all(found.of_category(name)).accuracy for name in found.categories if found.of_category(name)}
    summary["Avg"] = found.all.accuracy
    return summary | ({"Avg(Hard)": found.hard.accuracy} if found.hard is not None else {})


def subjects_summary(found: Scores) -> dict[str, float]:
    """`summary_subject_acc.json`."""
    return {name: tally.accuracy for name, tally in found.subjects.items()}


def report(
    exam: Exam, questions: Sequence[Question], given: Mapping[int, Given], made: Mapping[str, Any], *, model: str = ""
) -> dict[str, Any]:
    """All that is said of a run.

    Args:
        exam: of the questions.
        questions: asked; at least one.
        given: their answers.
        made: how: model, prompt, how answers are read.
        model: registry name, for the published figures.
    """
    found = scores(exam, questions, given)
    whole = found.all
    answers = [given[question.number] for question in questions]
    fewer = Counter(answer.shots for answer in answers if answer.shots is not None and answer.shots < int(made["shots"]))
    told_by = {"subjects": found.macro, "questions": whole.accuracy}
    own = "subjects" if exam.suite.averages_subjects else "questions"
    result: dict[str, Any] = {
        "suite": exam.suite.name,
        "split": exam.split,
        "accuracy": told_by[own],
        "accuracy_over": own,
        "accuracy_questions": whole.accuracy,
        "accuracy_subjects": found.macro,
        "confidence_95": wilson_interval(whole.accuracy, whole.questions),
        "questions": whole.questions,
        "right": whole.right,
        "without_letter": sum(answer.letter not in LETTERS for answer in answers),
        "did_not_fit": sum(answer.shots is None for answer in answers),
        "fewer_shots": {str(shots): count for shots, count in sorted(fewer.items())},
        "categories": {name: _category(found, name) for name in found.categories if found.of_category(name)},
    }
    if found.hard is not None and exam.suite.averages_subjects:
        result["hard"] = _part({name: tally for name, tally in found.subjects.items() if name in HARD})
    figures = published(exam.suite.name, model)
    if figures and made["shots"] == PUBLISHED_SHOTS and exam.split == exam.suite.split:
        result["published"] = figures
    return result | {"subjects": subjects_summary(found), "made": dict(made)}


def submission(questions: Sequence[Question], given: Mapping[int, Given]) -> dict[str, dict[str, str]]:
    """C-Eval's submission file: subject to id to letter; a question without one of the four letters has an empty text."""
    found: dict[str, dict[str, str]] = {}
    for question in questions:
        letter = given[question.number].letter
        found.setdefault(question.subject, {})[question.row] = letter if letter in LETTERS else ""
    return found


def told(result: Mapping[str, Any]) -> str:
    """The report in lines for a person."""
    low, high = result["confidence_95"]
    figures = result.get("published")
    beside = f"  published {figures['accuracy']:.4f} ({figures['source']})" if figures else ""
    interval = f"(95 %: {low:.4f} to {high:.4f})"
    lines = [
        f"{result['accuracy_questions']:.4f}  over {result['questions']} questions (micro)  {interval}{beside}",
        f"{result['accuracy_subjects']:.4f}  over {len(result['subjects'])} subjects (macro)",
    ]
    parts = dict(result["categories"]) | ({"hard subjects": result["hard"]} if "hard" in result else {})
    for name, part in parts.items():
        micro, macro, count = part["accuracy_questions"], part["accuracy_subjects"], part["questions"]
        lines.append(f"{micro:.4f}  {name}: {count} questions; {macro:.4f} over its {part['subjects']} subjects")
    if result["fewer_shots"]:
        some = ", ".join(f"{count} with {shots}" for shots, count in result["fewer_shots"].items())
        lines.append(f"prompts with fewer examples, for want of room: {some}")
    if result["did_not_fit"]:
        lines.append(f"{result['did_not_fit']} questions did not fit even without examples, and count as wrong")
    if result["without_letter"] - result["did_not_fit"]:
        lines.append(f"{result['without_letter'] - result['did_not_fit']} answers were none of A, B, C, D, and count as wrong")
    return "\n".join(lines)


def _category(found: Scores, name: str) -> dict[str, Any]:
    return _part(found.of_category(name))


def _part(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    whole = _all(tallies)
    return {
        "accuracy_questions": whole.accuracy,
        "accuracy_subjects": _mean(list(tallies.values())),
        "questions": whole.questions,
        "right": whole.right,
        "subjects": len(tallies),
    }


def _all(tallies: Mapping[str, Tally]) -> Tally:
    return sum(tallies.values(), Tally(0, 0))


def _mean(tallies: Sequence[Tally]) -> float:
    return sum(tally.accuracy for tally in tallies) / len(tallies)
