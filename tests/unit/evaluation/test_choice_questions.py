"""MMLU's and C-Eval's files, tables and prompts, word for word as published; damaged files are refused with line and field."""

import hashlib
import shutil
from pathlib import Path

import pytest

from mindformers_codellama.errors import ConfigError, DataError, TokenizerError
from mindformers_codellama.evaluation.choices.prompts import fitted, letter_ids, prompt_text
from mindformers_codellama.evaluation.choices.questions import read_exam
from mindformers_codellama.evaluation.choices.suites import CEVAL, MMLU
from mindformers_codellama.text.auto import AutoTokenizer

HERE = Path(__file__).parent
MMLU_DATA, CEVAL_DATA = HERE / "mmlu", HERE / "ceval"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained("codellama_tiny")


def test_subjects_titles_and_categories_are_the_published_ones():
    """SHA-256 of `name\\tcategory` and `name\\ttitle\\tcategory` lines of categories.py and subject_mapping.json, sorted."""
    lines = "".join(f"{name}\t{subject.category}\n" for name, subject in MMLU.subjects.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == "e824d918a95961c5a83e95b6deea2d544a84ef38b8ba374676762ed6bd644da7"
    lines = "".join(f"{name}\t{subject.title}\t{subject.category}\n" for name, subject in CEVAL.subjects.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == "88aa82ece7412d58b9f0b006f82a16983ed0cefd5e83a0a54375bec0f261f218"


def test_the_mmlu_prompt_is_hendrycks_own_with_its_two_spaces():
    exam = read_exam(MMLU_DATA, MMLU)
    question = exam.questions[6]
    assert (question.number, question.subject, question.answer) == (6, "college_physics", "C")
    assert prompt_text(MMLU, question, exam.examples["college_physics"][:2]) == (
        "The following are multiple choice questions (with answers) about  college physics.\n\n"
        "11 + 1 = ?\nA. 12\nB. 11\nC. 0\nD. None\nAnswer: A\n\n"
        "11 + 2 = ?\nA. 22\nB. 13\nC. 0\nD. None\nAnswer: B\n\n"
        "Two lines:\nF = m a\nE = ?\nA. m\nB. m a\nC. m c^2\nD. c\nAnswer:"
    )


def test_the_ceval_prompt_is_the_published_one_in_chinese():
    exam = read_exam(CEVAL_DATA, CEVAL)
    assert [question.subject for question in exam.questions] == ["accountant"] + ["college_physics"] * 2 + ["law"] * 3
    assert prompt_text(CEVAL, exam.questions[4], exam.examples["law"][:1]) == (
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
        "11 + 1 = ?\nA. 12\nB. 11\nC. 0\nD. None\n答案：A\n\n"
        "法律，“成文法”由谁制定？\nA. 法院\nB. 无人\nC. 议会\nD. 国王\n答案："
    )


def test_fields_are_taken_as_they_are():
    """pandas would make 0.50 the number 0.5, and nothing of None."""
    first = read_exam(MMLU_DATA, MMLU).questions[0]
    assert first.choices == ("24", "12", "0.50", "None")
    assert read_exam(MMLU_DATA, MMLU).questions[-1].text == "Smallest group?"  # behind a byte order mark


@pytest.mark.parametrize(("suite", "data", "lead"), [(MMLU, MMLU_DATA, " "), (CEVAL, CEVAL_DATA, "")])
def test_a_letter_is_the_token_it_is_behind_an_example(suite, data, lead, tokenizer):
    import sentencepiece

    exam = read_exam(data, suite)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    pieces = [("▁" if lead else "") + letter for letter in "ABCD"]
    assert [model.id_to_piece(i) for i in letter_ids(exam, tokenizer)] == pieces
    solved = prompt_text(suite, exam.questions[0], exam.examples[exam.questions[0].subject])
    behind = suite.cue + lead + "A\n\n"
    assert model.encode(solved[: solved.index(behind) + len(behind) - 2])[-1] == letter_ids(exam, tokenizer)[0]


def test_letters_that_are_no_tokens_are_refused(tokenizer, monkeypatch):
    monkeypatch.setattr("mindformers_codellama.evaluation.choices.prompts.LETTERS", ("A", "B", "C", "Die"))
    with pytest.raises(TokenizerError, match=r"' Die' behind '\\nAnswer:' is not one token.*--answer-by generation"):
        letter_ids(read_exam(MMLU_DATA, MMLU), tokenizer)


def test_examples_are_left_out_from_the_end_until_the_prompt_fits(tokenizer):
    exam = read_exam(MMLU_DATA, MMLU)
    question, examples = exam.questions[0], exam.examples["anatomy"]
    lengths = [len(tokenizer.encode(prompt_text(MMLU, question, examples[:shots]))) for shots in range(6)]
    for shots, length in enumerate(lengths):
        assert (fitted(exam, question, tokenizer, length).shots, len(fitted(exam, question, tokenizer, length).ids)) == (shots, length)
        assert fitted(exam, question, tokenizer, length - 1).shots == max(0, shots - 1)
    assert fitted(exam, question, tokenizer, lengths[0] - 1).ids == []


def test_questions_are_chosen_by_subject_and_keep_their_numbers():
    exam = read_exam(MMLU_DATA, MMLU)
    assert [one.number for one in exam.chosen(("sociology", "anatomy"), 2)] == [0, 1, 14]
    assert len(exam.chosen()) == 15
    with pytest.raises(ConfigError, match=r"'anatomi' has no questions here. Fix: write anatomy\."):
        exam.chosen(("anatomi",))


def test_the_folder_may_be_the_work_folder_of_the_atb_scripts(tmp_path):
    shutil.copytree(MMLU_DATA, tmp_path / "data")
    (tmp_path / "data/test/._anatomy_test.csv").write_bytes(b"\x00\x05\x16\x07")  # macOS leaves such files in archives
    assert read_exam(tmp_path, MMLU) == read_exam(MMLU_DATA, MMLU)
    assert len(read_exam(tmp_path, MMLU, split="val", shots=0).questions) == 1


def test_the_hash_of_the_questions_does_not_depend_on_the_examples():
    five, none = (read_exam(MMLU_DATA, MMLU, shots=shots) for shots in (5, 0))
    assert (five.sha256, five.questions) == (none.sha256, none.questions)
    assert five.examples_sha256 != none.examples_sha256


def test_questions_whose_answers_are_not_published_have_none():
    exam = read_exam(CEVAL_DATA, CEVAL, split="test")
    assert ({one.answer for one in exam.questions}, exam.has_answers) == ({""}, False)


def damaged(tmp_path, data, name, old, new) -> Path:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (
            "test/anatomy_test.csv",
            "ulna,skull,heel",
            "ulna,skull",
            r"anatomy_test.csv:2: has 5 fields, must have 6: question, A, B, C, D, answer",
        ),
        ("test/college_physics_test.csv", ",c,C", ",c,c", r"_test.csv:3, field 6 \(answer\): got 'c', must be A, B, C or D"),
        ("test/college_physics_test.csv", ",c,C", ",c,BC", r"_test.csv:3, field 6 \(answer\): got 'BC'"),
        ("test/sociology_test.csv", "Smallest group?", " ", r"_test.csv:1, field 1 \(question\): is empty"),
        ("test/college_physics_test.csv", 'E = ?"', "E = ?", r"college_physics_test.csv:3: is not CSV: unexpected end of data"),
        ("dev/anatomy_dev.csv", "1 + 5 = ?,6,1,0,None,A\n", "", r"anatomy_dev.csv: has 4 examples, 5 are asked for. Fix: --shots 4"),
    ],
)
def test_damaged_mmlu_files_are_refused(tmp_path, name, old, new, says):
    with pytest.raises(DataError, match=says):
        read_exam(damaged(tmp_path, MMLU_DATA, name, old, new), MMLU)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (
            "val/law_val.csv",
            "id,question",
            "id,questoin",
            r"law_val.csv:1: has no column question. Fix: its first line is id,question,A,B,C,D,answer",
        ),
        ("val/law_val.csv", "裁缝,A", "裁缝,", r"val: 1 of 6 questions have no answer, the first is id 0 of law"),
        ("val/law_val.csv", "裁缝,A", "裁缝,E", r"law_val.csv:2, field 7 \(answer\): got 'E'"),
    ],
)
def test_damaged_ceval_files_are_refused(tmp_path, name, old, new, says):
    with pytest.raises(DataError, match=says):
        read_exam(damaged(tmp_path, CEVAL_DATA, name, old, new), CEVAL)


def test_files_that_are_missing_or_of_something_else_are_told(tmp_path):
    with pytest.raises(DataError, match="has no folder dev, val or test"):
        read_exam(tmp_path, MMLU)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"holds no questions of C-Eval. Fix: its files are named like accountant_test\.csv"):
        read_exam(tmp_path, CEVAL, split="test")
    shutil.copytree(MMLU_DATA, tmp_path / "data")
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "data/test/anatomy_test.csv").rename(tmp_path / "data/test/anatom_test.csv")
    with pytest.raises(DataError, match=r"anatom_test.csv: is no file of MMLU's test split. Fix: is it anatomy_test.csv\?"):
        read_exam(tmp_path, MMLU)
    (tmp_path / "data/test/anatom_test.csv").unlink()
    (tmp_path / "data/test/sociology_test.csv").write_bytes("Naïve?,1,2,3,4,A\n".encode("latin-1"))
    with pytest.raises(DataError, match="sociology_test.csv:1: is not UTF-8"):
        read_exam(tmp_path, MMLU)
    (tmp_path / "data/dev/sociology_dev.csv").unlink()
    (tmp_path / "data/test/sociology_test.csv").write_text("Q?,1,2,3,4,A\n")
    with pytest.raises(DataError, match="sociology_dev.csv: is missing: the examples before each question come from it"):
        read_exam(tmp_path, MMLU)
