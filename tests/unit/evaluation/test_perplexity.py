"""Windows, documents, and perplexity by hand-made logits."""

import json
import math

import numpy as np
import pytest

from mindformers_codellama.data.wikitext import clean
from mindformers_codellama.errors import ConfigError, DataError, GenerationError
from mindformers_codellama.evaluation.documents import read_documents, total
from mindformers_codellama.evaluation.perplexity import perplexity_report, window_losses
from mindformers_codellama.evaluation.windows import require_stride, sliding_windows

VOCAB = 7


def bigram(rows):
    """Logits of a model that expects the next id after each; in two chunks."""
    for number, row in enumerate(rows):
        logits = np.zeros((len(row), VOCAB), np.float32)
        logits[np.arange(len(row)), (row + 1) % VOCAB] = 1.0
        middle = len(row) // 2
        yield number, 0, logits[:middle]
        yield number, middle, logits[middle:]


def bigram_loss(ids) -> float:
    """The same in closed form: the softmax of one logit 1 among zeros."""
    whole = math.log(math.e + VOCAB - 1)
    return sum(whole - (after == (before + 1) % VOCAB) for before, after in zip(ids, ids[1:], strict=False))


@pytest.mark.parametrize(
    ("count", "window", "stride"), [(2, 1, 1), (10, 4, 4), (10, 4, 1), (10, 4, 3), (9, 4, 2), (10, 50, 7), (100, 13, 5)]
)
def test_every_token_is_predicted_once_and_with_enough_before_it(count, window, stride):
    ids = np.arange(100, 100 + count)
    predicted = []
    for number, one in enumerate(sliding_windows("a", ids, window=window, stride=stride)):
        assert len(one.tokens) <= window
        assert (one.labels == one.tokens + 1).all()
        predicted += one.labels[one.counts].tolist()
        assert np.flatnonzero(one.counts)[0] >= (window - stride if number else 0)
    assert predicted == ids[1:].tolist()


def test_a_text_without_a_token_has_no_window():
    assert not list(sliding_windows("a", [1], window=4, stride=4))
    assert not list(sliding_windows("a", [], window=4, stride=4))


@pytest.mark.parametrize(
    ("window", "stride", "says"), [(9, 1, "--window: got 9, must be from 1 to 8"), (4, 5, "--stride: got 5"), (4, 0, "--stride")]
)
def test_windows_that_cannot_be_are_refused(window, stride, says):
    with pytest.raises(ConfigError, match=says):
        require_stride(window, stride, 8)


@pytest.mark.parametrize(("window", "stride", "batch"), [(50, 50, 1), (6, 6, 3), (6, 2, 4)])
def test_windows_do_not_change_the_loss_of_a_model_that_sees_one_token(window, stride, batch):
    ids = np.random.default_rng(0).integers(0, VOCAB, 40).tolist()
    windows = list(sliding_windows("a", ids, window=window, stride=stride))
    found = window_losses(bigram, windows, batch_size=batch)
    assert math.fsum(found.values()) == pytest.approx(bigram_loss(ids), rel=1e-6)  # float32 logits 0 and 1 are exact; the sum rounds


def test_a_loss_that_is_no_number_is_refused_and_not_kept(tmp_path):
    windows = list(sliding_windows("a", list(range(7)), window=5, stride=5))

    def spoilt(rows):
        for number, first, logits in bigram(rows):
            yield number, first, np.where(np.arange(VOCAB) == 2, np.float32(np.nan), logits)

    with pytest.raises(GenerationError, match="window a:0: the loss is nan"):
        window_losses(spoilt, windows, tmp_path / "w.jsonl")
    assert (tmp_path / "w.jsonl").read_bytes() == b""
    (tmp_path / "w.jsonl").write_text('{"window": "a:0", "loss": NaN, "tokens": 5}\n')
    with pytest.raises(DataError, match=":1: is no"):
        window_losses(bigram, windows, tmp_path / "w.jsonl")


def test_an_interrupted_run_reads_only_what_is_missing(tmp_path):
    windows = list(sliding_windows("a", list(range(7)) * 4, window=5, stride=5))
    path = tmp_path / "w.jsonl"
    whole = window_losses(bigram, windows, path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(windows)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:8])
    read = []

    def counted(rows):
        read.extend(rows)
        return bigram(rows)

    with pytest.raises(KeyboardInterrupt):
        window_losses(counted, windows, path, should_stop=lambda: True)
    assert len(read) == 1
    assert window_losses(counted, windows, path) == whole
    assert len(read) == len(windows) - 3
    assert path.read_bytes() == b"".join(lines)
    path.write_text('{"window": "a:0"}\n')
    with pytest.raises(DataError, match="w.jsonl:1: is no"):
        window_losses(bigram, windows, path)


def test_the_report_of_a_uniform_model_is_its_vocabulary():
    loss = 30 * math.log(1024)
    found = perplexity_report({"a": loss / 3, "b": 2 * loss / 3}, 30, words=10, bytes_=60)
    assert found["perplexity"] == pytest.approx(1024)
    assert found["word_perplexity"] == pytest.approx(1024.0**3)
    assert found["bits_per_byte"] == pytest.approx(5.0)
    assert perplexity_report({"a": 800.0}, 1)["perplexity"] is None
    assert "word_perplexity" not in perplexity_report({"a": 1.0}, 1)


def test_documents_are_files_or_records(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "zwei Wörter"}\n{"content": "three more words"}\n', encoding="utf-8")
    found = read_documents([str(tmp_path)])
    assert [(one.text, one.words, one.bytes) for one in found] == [("x = 1\n\n", 3, 7), ("zwei Wörter", 2, 12), ("three more words", 3, 16)]
    assert total(found) == {"documents": 3, "words": 8, "bytes": 35}
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="c.bin: is not UTF-8 text"):
        read_documents([str(tmp_path)])
    (tmp_path / "d.jsonl").write_text(json.dumps({"code": "x"}) + "\n")
    with pytest.raises(DataError, match="d.jsonl:1.*no text under the key"):
        read_documents([str(tmp_path / "d.jsonl")])


def test_wikitext_is_cleaned_and_its_own_words_are_counted(tmp_path):
    text = " = Title = \n \n It cost 1 @,@ 000 euros , then . \n"
    (tmp_path / "wiki.valid.tokens").write_text(text)
    (found,) = read_documents([str(tmp_path / "wiki.valid.tokens")], kind="wiki")
    assert (found.words, found.bytes) == (len(text.split()), len(text))
    assert found.text == "".join(clean([text]))
    assert "1,000 euros, then." in found.text
