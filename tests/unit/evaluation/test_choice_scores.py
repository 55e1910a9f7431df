"""Averages by hand, the ATB scripts' files, and going on with them; answers by generation on a decoder that says what it is told."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import DataError, GenerationError
from mindformers_codellama.evaluation.choices.answers import Answer, by_generation, by_logit
from mindformers_codellama.evaluation.choices.ask import Asking, ask
from mindformers_codellama.evaluation.choices.prompts import Prompt, letter_ids, prompt_text
from mindformers_codellama.evaluation.choices.questions import read_exam
from mindformers_codellama.evaluation.choices.records import Given, Records, read_given
from mindformers_codellama.evaluation.choices.suites import CEVAL, MMLU
from mindformers_codellama.evaluation.choices.summary import classes_summary, report, scores, subjects_summary, submission, told
from mindformers_codellama.text.auto import AutoTokenizer

HERE = Path(__file__).parent
EXAM = read_exam(HERE / "mmlu", MMLU)
LETTERS = "ABDD" + "ADB" + "AD" + "ABBBC" + "A"
"""Right: 3 of 4 (anatomy), 1 of 3 (college_physics), 2 of 2 (high_school_physics), 1 of 5 (jurisprudence), 0 of 1 (sociology)."""
GIVEN = {number: Given(letter, 5) for number, letter in enumerate(LETTERS)}
MADE = {"shots": 5}


class Fixed:
    """A decoder that gives every row one list of tokens, one after the other."""

    vocab_size = 2048
    max_length = 300

    def __init__(self, tokens):
        self.tokens, self.rows, self.read = tokens, [], []

    def prefill(self, tokens_BT, lengths_B):
        self.read = [row[:length].tolist() for row, length in zip(tokens_BT, lengths_B, strict=True)]
        self.at = 0
        return self._logits()

    def step(self, tokens_B):
        self.at += 1
        return self._logits()

    def _logits(self):
        logits = np.zeros((len(self.read), self.vocab_size), np.float32)
        for row in range(len(self.read)):
            logits[row, self.tokens[row % len(self.tokens)][self.at]] = 9.0
        return logits


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained("codellama_tiny")


def test_averages_are_those_of_the_hand():
    found = scores(EXAM, EXAM.questions, GIVEN)
    assert subjects_summary(found) == {
        "anatomy": 0.75,
        "college_physics": 1 / 3,
        "high_school_physics": 1.0,
        "jurisprudence": 0.2,
        "sociology": 0.0,
    }
    assert classes_summary(found) == {
        "STEM": 3 / 5,
        "humanities": 1 / 5,
        "social sciences": 0.0,
        "other (business, health, misc.)": 3 / 4,
        "Avg": 7 / 15,
        "Avg(Hard)": 3 / 5,  # of the five questions of hard subjects, not of all fifteen
    }
    result = report(EXAM, EXAM.questions, GIVEN, MADE)
    assert result["accuracy"] == result["accuracy_questions"] == 7 / 15
    assert result["accuracy_subjects"] == pytest.approx((3 / 4 + 1 / 3 + 1 + 1 / 5 + 0) / 5)
    assert result["categories"]["STEM"] == {
        "accuracy_questions": 3 / 5,
        "accuracy_subjects": pytest.approx(2 / 3),
        "questions": 5,
        "right": 3,
        "subjects": 2,
    }
    low, high = result["confidence_95"]
    z, n, p = 1.959964, 15, 7 / 15  # Wilson's interval is where |p - x| = z sqrt(x (1 - x) / n)
    assert all(abs(p - x) == pytest.approx(z * math.sqrt(x * (1 - x) / n), rel=1e-5) for x in (low, high))


def test_ceval_averages_its_subjects_and_tells_the_hard_ones():
    exam = read_exam(HERE / "ceval", CEVAL)
    given = {number: Given(letter, 5) for number, letter in enumerate("B" + "AA" + "AAA")}
    result = report(exam, exam.questions, given, MADE)
    assert (result["accuracy_over"], result["accuracy"]) == ("subjects", pytest.approx((1 + 1 / 2 + 1 / 3) / 3))
    assert result["accuracy_questions"] == 3 / 6
    assert result["hard"] == {"accuracy_questions": 0.5, "accuracy_subjects": 0.5, "questions": 2, "right": 1, "subjects": 1}
    assert "Avg(Hard)" not in classes_summary(scores(exam, exam.chosen(("law",)), given))


def test_what_lowers_a_score_is_counted_and_told():
    given = GIVEN | {0: Given("-1", None), 1: Given("T", 5), 2: Given("D", 3), 3: Given("D", 0), 14: Given("B", 4)}
    result = report(EXAM, EXAM.questions, given, MADE)
    assert (result["did_not_fit"], result["without_letter"], result["fewer_shots"]) == (1, 2, {"0": 1, "3": 1, "4": 1})
    text = told(result)
    assert "1 questions did not fit even without examples, and count as wrong" in text
    assert "1 answers were none of A, B, C, D, and count as wrong" in text
    assert "for want of room: 1 with 0, 1 with 3, 1 with 4" in text


def test_published_figures_stand_beside_the_same_measurement_alone():
    assert report(EXAM, EXAM.questions, GIVEN, MADE, model="llama2_7b")["published"]["accuracy"] == pytest.approx(0.453)
    assert "published 0.4530 (Llama 2 paper" in told(report(EXAM, EXAM.questions, GIVEN, MADE, model="llama2_7b"))
    assert "published" not in report(EXAM, EXAM.questions, GIVEN, {"shots": 0}, model="llama2_7b")
    assert "published" not in report(EXAM, EXAM.questions, GIVEN, MADE, model="codellama_7b")


def test_a_submission_has_the_id_of_each_question():
    exam = read_exam(HERE / "ceval", CEVAL, split="test")
    given = {number: Given(letter, 5) for number, letter in enumerate(["B", "A", "-1", "A", "C", "D"])}
    expected = {"accountant": {"0": "B"}, "college_physics": {"0": "A", "1": ""}, "law": {"0": "A", "1": "C", "2": "D"}}
    assert submission(exam.questions, given) == expected


def pairs(*numbers):
    return [(Prompt(EXAM.questions[number], [1, 2, 3], 4), Answer(LETTERS[number], logprobs=(-1.0,) * 4)) for number in numbers]


def test_the_cache_is_that_of_the_atb_scripts_and_a_half_line_does_not_count(tmp_path):
    with Records(tmp_path) as records:
        records.add(pairs(0, 1))
        records.add(pairs(4))
    assert (tmp_path / "cache.csv").read_text() == "0,anatomy,A,A\n1,anatomy,B,B\n4,college_physics,A,A\n"
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[2]) == {
        "question_id": 4,
        "task_name": "college_physics",
        "id": "0",
        "truth": "A",
        "predict": "A",
        "shots": 4,
        "prompt_tokens": 3,
        "logprobs": [-1.0] * 4,
    }
    with (tmp_path / "cache.csv").open("a") as file:
        file.write("5,college_ph")
    assert read_given(tmp_path, EXAM.questions) == {0: Given("A", 4), 1: Given("B", 4), 4: Given("A", 4)}
    with Records(tmp_path) as records:
        records.add(pairs(5))
    (tmp_path / "answers.jsonl").unlink()  # lost: nobody says then that prompts had fewer examples
    assert {given.shots for given in read_given(tmp_path, EXAM.questions, asked_shots=3).values()} == {3}
    assert (tmp_path / "cache.csv").read_text().endswith("\n4,college_physics,A,A\n5,college_physics,B,D\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0,anatomy,A", r"cache.csv:1: has 3 fields, must have 4: question_id, task_name, truth, predict"),
        ("99,anatomy,A,A", r"cache.csv:1, field 1 \(question_id\): '99' is no question of this data"),
        ("0,law,A,A", r"field 2 \(task_name\): 'law', but question 0 is of anatomy"),
        ("0,anatomy,B,A", r"field 3 \(truth\): 'B', but the answer is 'A'"),
    ],
)
def test_a_cache_of_other_data_is_refused(tmp_path, line, says):
    (tmp_path / "cache.csv").write_text(line + "\n")
    with pytest.raises(DataError, match=says):
        read_given(tmp_path, EXAM.questions)


def test_a_written_answer_is_its_first_letter(tokenizer):
    texts = [" B", "\n\n(c) because", "the answer is D", "123 456 789"]
    tokens = [tokenizer.encode_pieces(text, bos=False, eos=False)[:8] + [tokenizer.eos_token_id] * 9 for text in texts]
    config = GenerationConfig(max_new_tokens=8, eos_token_ids=(tokenizer.eos_token_id,), pad_token_id=0, bos_token_id=1, use_past=True)
    prompts = [prompt for prompt, _ in pairs(0, 1, 2, 3)]
    answers = by_generation(Fixed(tokens), prompts, config, tokenizer)
    assert [answer.letter for answer in answers] == ["B", "C", "T", "-1"]
    assert answers[1].text.endswith("(c")


def test_logits_that_are_no_numbers_are_refused():
    decoder = Fixed([[5]])
    decoder._logits = lambda: np.full((1, 2048), np.nan, np.float32)
    with pytest.raises(GenerationError, match="row 3, new token 1: the model's logits contain NaN"):
        by_logit(decoder, [pairs(3)[0][0]], [1, 2, 3, 4], 0)


def asking(tokenizer, *, by="logit", room=300, batch_size=1):
    config = GenerationConfig(max_new_tokens=32, eos_token_ids=(2,), pad_token_id=0, bos_token_id=1, use_past=True)
    decoder = Fixed([[letter_ids(EXAM, tokenizer)[2]]])
    decoder.max_length = room
    return Asking(decoder=decoder, tokenizer=tokenizer, config=config, by=by, batch_size=batch_size)


def test_questions_without_room_are_not_asked_and_keep_their_place(tokenizer, tmp_path):
    asked = EXAM.questions[:7]
    alone = [len(tokenizer.encode(prompt_text(MMLU, question, ()))) for question in asked]
    room = sorted(alone)[3]
    given = ask(asking(tokenizer, room=room, batch_size=4), EXAM, asked, tmp_path)
    assert [given[number] for number in range(7)] == [Given("C", 0) if length <= room else Given("-1", None) for length in alone]
    assert read_given(tmp_path, EXAM.questions) == given
    with pytest.raises(GenerationError, match="leaves no room for a prompt"):
        ask(asking(tokenizer, by="generation", room=32), EXAM, asked, tmp_path)


def test_a_stop_keeps_what_is_answered(tokenizer, tmp_path):
    answered = []
    with pytest.raises(KeyboardInterrupt):
        ask(
            asking(tokenizer, batch_size=2),
            EXAM,
            EXAM.questions,
            tmp_path,
            on_answers=answered.append,
            should_stop=lambda: len(answered) == 3,
        )
    assert list(read_given(tmp_path, EXAM.questions)) == [0, 1, 2, 3, 4, 5]
