"""Cases and tables of speed sweeps: bytes of the header, arithmetic of the columns, rows of fixed length."""

import csv

import numpy as np
import pytest

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines import performance
from mindformers_codellama.pipelines.performance import Timing, fixed_length, random_rows, time_separately, time_together
from mindformers_codellama.pipelines.performance_cases import Case, cases_of, combined, range_lengths, side_by_side
from mindformers_codellama.pipelines.performance_files import ModelTestFiles, SweepFile, sweep_line

HEADER = b"Batch,Input_seq_len,Output_seq_len,TotalTime(s),first_token_time(ms),avg_token_time(ms),avg TPS(tokens/s),E2E TPS(tokens/s)\n"
PLAIN_HEADER = (
    "Model,Batchsize,In_seq,Out_seq,Total time(s),Prefill all time(ms),Prefill average time(ms),Non-first token time(ms),"
    "Non-first token Throughput(Tokens/s),Throughput(Tokens/s),Non-first token Throughput Average(Tokens/s),"
    "E2E Throughput Average(Tokens/s)\n"
)


class CountingDecoder:
    """Answers with token 5; counts what it is asked."""

    vocab_size = 16
    max_length = 64

    def __init__(self):
        self.calls = []
        self.beginnings = []

    def prefill(self, tokens_BT, lengths_B):
        self.beginnings += [tuple(row[:2].tolist()) for row in tokens_BT]
        self.calls.append(("prefill", tokens_BT.shape))
        return self._logits(len(tokens_BT))

    def step(self, tokens_B):
        self.calls.append(("step", tokens_B.shape))
        return self._logits(len(tokens_B))

    def reorder(self, rows_B):
        raise AssertionError("greedy answers are not reordered")

    def _logits(self, rows):
        logits_BV = np.zeros((rows, self.vocab_size), np.float32)
        logits_BV[:, 5] = 1
        return logits_BV


def test_default_ranges_are_six_lengths_and_36_pairs():
    lengths = range_lengths("in", [5, 11])
    assert lengths == [32, 64, 128, 256, 512, 1024]
    pairs = combined(lengths, lengths)
    assert len(pairs) == 36
    assert pairs[:2] == [(32, 32), (32, 64)]  # output lengths change first


def test_pairs_are_read_side_by_side_and_must_match():
    assert side_by_side([256, 512], [64, 128], ("in", "out")) == [(256, 64), (512, 128)]
    with pytest.raises(ConfigError, match=r"out: has 1 lengths, in has 2"):
        side_by_side([256, 512], [64], ("in", "out"))


@pytest.mark.parametrize("wrong", [[5], [5, 5], [11, 5], [0, 99], [1, 2, 3]])
def test_a_range_that_holds_nothing_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"--seqlen-in-range: got .* must be \[FIRST,LAST\]"):
        range_lengths("--seqlen-in-range", wrong)


def test_a_case_longer_than_the_limit_is_refused_with_the_longest():
    with pytest.raises(ConfigError, match=r"MAX_SEQ_LENGTH: is 100, but a case has 90 \+ 20 = 110 tokens and 1 more"):
        cases_of([1], [(90, 20), (80, 10), (51, 50)], limit=100, where="MAX_SEQ_LENGTH")
    assert cases_of([1], [(80, 20)], limit=100, where="") == [Case(1, 80, 20)]  # exactly full fits


def test_every_finding_of_the_cases_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        cases_of([0], [(1, 1)], limit=8, where="x")
    assert "every batch has at least 1 row" in str(caught.value)
    with pytest.raises(Exception, match=r"2 problems"):
        cases_of([0], [(0, 1)], limit=8, where="x")


def test_columns_are_the_arithmetic_of_the_two_times():
    timing = Timing(case=Case(4, 128, 11), total_seconds=1.5, first_seconds=0.5)
    assert timing.next_seconds == pytest.approx(0.1)  # (1.5 - 0.5) / (11 - 1)
    assert timing.next_rate == pytest.approx(40)  # 4 rows / 0.1 s
    assert timing.whole_rate == pytest.approx(4 * 11 / 1.5)
    assert sweep_line(timing) == "4,128,11,1.50,500.00,100.00,40.00,29.33\n"


def test_one_new_token_has_no_average():
    timing = Timing(case=Case(2, 8, 1), total_seconds=0.25, first_seconds=0.24)
    assert sweep_line(timing) == "2,8,1,0.25,240.00,0.00,0.00,8.00\n"


def test_a_sweep_file_begins_with_the_header_once_and_keeps_older_lines(tmp_path):
    timing = Timing(case=Case(1, 8, 2), total_seconds=0.3, first_seconds=0.2)
    for _ in range(2):
        file = SweepFile(tmp_path, "LLAMA2-7B", "cpu")
        file.begin()
        file.add(timing)
    assert file.path.name == "multibatch_performance_LLAMA2-7B_devicecpu.csv"
    written = file.path.read_bytes()
    assert written.startswith(HEADER)
    assert written == HEADER + 2 * b"1,8,2,0.30,200.00,100.00,10.00,6.67\n"


def test_a_foreign_file_of_that_name_is_not_written_to(tmp_path):
    file = SweepFile(tmp_path, "m", "0")
    file.path.write_text("mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="does not begin with this table's header"):
        file.begin()
    assert file.path.read_text(encoding="utf-8") == "mine\n"


def test_model_test_files_have_averages_in_the_last_row_and_aligned_cells(tmp_path):
    timings = [
        Timing(case=Case(2, 64, 11), total_seconds=2.0, first_seconds=1.0),  # 20 tokens/s after the first, 11 in all
        Timing(case=Case(2, 32, 11), total_seconds=1.0, first_seconds=0.5),  # 40 and 22
    ]
    files = ModelTestFiles(tmp_path, hardware="CPU", kind="bf16", model="codellama", batch=2, ranks=1)
    files.write(timings)
    assert files.plain == tmp_path / "results/CPU/performance_test/performance/bf16/codellama/performance_pa_batch2_tp1_result.csv"
    text = files.plain.read_text(encoding="utf-8")
    assert text.startswith(PLAIN_HEADER)
    first, last = list(csv.DictReader(text.splitlines()))
    assert (first["Model"], first["Batchsize"], first["In_seq"], first["Out_seq"]) == ("codellama", "2", "64", "11")
    assert float(first["Prefill all time(ms)"]) == float(first["Prefill average time(ms)"]) == 1000
    assert float(first["Non-first token time(ms)"]) == pytest.approx(100)
    assert float(first["Non-first token Throughput(Tokens/s)"]) == pytest.approx(20)
    assert float(first["Throughput(Tokens/s)"]) == pytest.approx(11)
    assert first["E2E Throughput Average(Tokens/s)"] == ""
    assert float(last["Non-first token Throughput Average(Tokens/s)"]) == pytest.approx(30)
    assert float(last["E2E Throughput Average(Tokens/s)"]) == pytest.approx(16.5)
    lines = files.aligned.read_text(encoding="utf-8").splitlines()
    assert files.aligned.name == "performance_pa_batch2_tp1_formatted_result.csv"
    assert lines[0].split("|")[9] == "E2E Throughput(Tokens/s)".ljust(25)
    assert [len(cell) for cell in lines[1].split("|")] == [15] * 5 + [25] * 3 + [36, 25]
    assert [len(cell) for cell in lines[2].split("|")] == [15] * 5 + [25] * 3 + [36, 25, 45, 35]


def test_rows_are_padded_at_the_left_and_cut_at_the_right():
    rows = fixed_length([[7, 8], [1, 2, 3, 4, 5]], Case(3, 4, 1), pad_token_id=0)
    assert rows == [[0, 0, 7, 8], [1, 2, 3, 4], [0, 0, 7, 8]]


def test_random_rows_differ_from_case_to_case_and_stay_in_the_vocabulary():
    first, second = random_rows(16, Case(2, 30, 1), 0), random_rows(16, Case(2, 30, 1), 1)
    assert first != second
    assert {token for row in first for token in row} <= set(range(16))


def test_a_case_is_warmed_up_then_its_first_token_is_made_alone_then_the_whole_answer():
    decoder = CountingDecoder()
    timing = time_separately(decoder, [[3, 4]] * 2, GenerationConfig(eos_token_ids=(5,)), Case(2, 2, 12))
    prompts = [number for number, call in enumerate(decoder.calls) if call[0] == "prefill"]
    steps = [sum(call[0] == "step" for call in part) for part in np.split(np.array(decoder.calls, dtype=object), prompts)[1:]]
    # 10, 1 and 12 tokens: the first of each comes from the prompt; the end id 5 does not end an answer
    assert steps == [9, 0, 11]
    assert len(set(decoder.beginnings)) == 6  # no row begins like another, so that nothing can be reused
    assert 0 < timing.first_seconds
    assert 0 < timing.total_seconds


def test_the_first_token_of_one_generation_is_timed_in_passing():
    decoder = CountingDecoder()
    timing = time_together(decoder, [[3, 4]], GenerationConfig(), Case(1, 2, 3))
    assert [call[0] for call in decoder.calls] == ["prefill", "step", "step", "prefill", "step", "step"]
    assert 0 < timing.first_seconds < timing.total_seconds


def test_warm_up_never_reaches_past_the_case():
    decoder = CountingDecoder()
    performance.warm_up(decoder, [[3] * 60], GenerationConfig(), Case(1, 60, 4))
    assert len(decoder.calls) == 4
