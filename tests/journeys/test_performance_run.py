"""`codellama performance` on a tiny model: real cases, real files."""

import csv

from mindformers_codellama.cli.main import main


def test_a_sweep_of_pairs_writes_a_line_per_batch_and_pair(folder, tmp_path, capsys):
    words = ["--set-case-pair", "1", "--seqlen-in-pair", "[8,20]", "--seqlen-out-pair", "[3,1]", "--batch", "1,2"]
    assert main(["performance", str(folder), *words, "--output", str(tmp_path), "--model-name", "tiny"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    lines = list(csv.DictReader((tmp_path / "multibatch_performance_tiny_devicecpu.csv").read_text(encoding="utf-8").splitlines()))
    cases = [(int(line["Batch"]), int(line["Input_seq_len"]), int(line["Output_seq_len"])) for line in lines]
    assert cases == [(1, 8, 3), (1, 20, 1), (2, 8, 3), (2, 20, 1)]
    for line, (_, _, new) in zip(lines, cases, strict=True):
        total, first, average = (float(line[name]) for name in ("TotalTime(s)", "first_token_time(ms)", "avg_token_time(ms)"))
        # printed with two decimals: the average follows from the other two within 10 ms of the total's rounding
        if new > 1:
            assert abs(average - (1000 * total - first) / (new - 1)) <= 5 / (new - 1) + 0.02
        assert (average > 0) == (new > 1)


def test_case_pairs_write_both_files_of_the_model_tests(folder, tmp_path):
    words = ["--case-pairs", "[[8,4],[4,2]]", "--batch", "2", "--model-type", "pa_fp32", "--output", str(tmp_path)]
    assert main(["performance", str(folder), *words, "--model-name", "codellama"]) == 0
    place = tmp_path / "results/CPU/performance_test/performance/fp32/codellama"
    lines = list(csv.DictReader((place / "performance_pa_batch2_tp1_result.csv").read_text(encoding="utf-8").splitlines()))
    assert [(line["In_seq"], line["Out_seq"]) for line in lines] == [("8", "4"), ("4", "2")]
    for line in lines:
        seconds = float(line["Non-first token time(ms)"]) / 1000
        assert abs(float(line["Non-first token Throughput(Tokens/s)"]) * seconds - 2) < 1e-6  # both rows per step; ten decimals are printed
    assert len((place / "performance_pa_batch2_tp1_formatted_result.csv").read_text(encoding="utf-8").splitlines()) == 3
