"""The benchmark driver without measuring: rows and targets, turns, ratios, verdicts, the page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import inference_tasks  # noqa: E402
import random_weights  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import rows  # noqa: E402
import run_jobs  # noqa: E402
import shapes  # noqa: E402
from jobs import Job  # noqa: E402


def sample(job: str, pair: int, group: str = "1.1b", **figures) -> dict:
    return {"group": group, "pair": pair, "job": job, **figures}


def decode_samples(ours=(46.0, 44.0, 48.0), peer=(40.0, 40.0, 40.0)) -> results.Samples:
    name = "decode-1_tokens_per_second"
    lines = [sample("ours inference 1.1b int8", pair, **{name: rate}) for pair, rate in enumerate(ours)]
    lines += [sample("llama.cpp inference 1.1b int8", pair, **{name: rate}) for pair, rate in enumerate(peer)]
    return results.Samples(lines)


def test_every_target_of_the_project_is_a_row():
    targets = {name: row.target for name, row in rows.ROWS.items()}
    assert [targets[f"decode-b1-1.1b-{form}"] for form in ("int8", "int4", "bfloat16")] == [1.15, 1.25, 1.05]
    assert [targets[f"bandwidth-1.1b-{form}"] for form in ("int8", "int4", "bfloat16")] == [0.9] * 3
    assert {targets[f"decode-b8-{shape}-{form}"] for shape in ("125m", "1.1b") for form in ("int8", "int4")} == {1.2}
    assert (targets["prefill-512-125m"], targets["prefill-512-1.1b"]) == (1.05, 1.05)
    assert [targets[name] for name in ("decode-b1-7b-int8", "decode-b1-7b-int4", "prefill-512-7b", "load", "long")] == [1.0] * 5
    assert (targets["train-fp32"], targets["train-fp32-memory"]) == (1.1, 0.8)
    assert (targets["train-bf16"], targets["train-bf16-memory"]) == (1.0, 0.8)


def test_shapes_have_the_sizes_they_are_named_for():
    total = {name: sum(_size(weight.dims) for weight in random_weights.weights(shape)) for name, shape in shapes.SHAPES.items()}
    assert 1.09e9 < total["1.1b"] < 1.11e9
    assert 0.124e9 < total["125m"] < 0.136e9
    assert total["7b-layers"] - 2 * 32016 * 4096 == pytest.approx(2 * 202.4e6, rel=0.001)
    for shape in shapes.SHAPES.values():
        matrices = sum(_size(weight.dims) for weight in random_weights.weights(shape) if not weight.is_norm)
        assert shape.read_weights == matrices - shape.vocab_size * shape.hidden_size  # all but the embedding


def _size(dims):
    size = 1
    for dim in dims:
        size *= dim
    return size


def test_the_order_turns_round_from_pair_to_pair():
    jobs = [Job(engine="ours"), Job(engine="llama.cpp")]
    assert [(pair, job.engine) for pair, job in run_jobs.turns(jobs, 3)] == [
        (0, "ours"),
        (0, "llama.cpp"),
        (1, "llama.cpp"),
        (1, "ours"),
        (2, "ours"),
        (2, "llama.cpp"),
    ]


def test_ratios_are_taken_pair_by_pair_and_their_median_meets_the_target():
    found = results.outcome(decode_samples(), rows.ROWS["decode-b1-1.1b-int8"])
    assert found.ratios.values == (1.15, 1.1, 1.2)
    assert found.ratios.median == 1.15
    assert found.verdict == "met"
    slower = results.outcome(decode_samples(ours=(45.0, 44.0, 48.0)), rows.ROWS["decode-b1-1.1b-int8"])
    assert slower.verdict == "**missed**"


def test_a_pair_with_one_side_only_counts_for_nothing():
    found = results.outcome(decode_samples(peer=(40.0,)), rows.ROWS["decode-b1-1.1b-int8"])
    assert found.ratios.values == (1.15,)


def test_seconds_are_turned_round_and_memory_is_an_upper_bound():
    lines = [
        sample("ours first-token 1.1b int8", 0, "load", load_to_first_token_seconds=0.2),
        sample("llama.cpp first-token 1.1b int8", 0, "load", load_to_first_token_seconds=0.3),
        sample("ours training 125m float32", 0, "train-fp32", peak_memory=3e9),
        sample("torch training 125m float32", 0, "train-fp32", peak_memory=5e9),
        sample("torch.compile training 125m float32", 0, "train-fp32", peak_memory=4e9),
    ]
    samples = results.Samples(lines)
    assert results.outcome(samples, rows.ROWS["load"]).ratios.median == pytest.approx(1.5)
    memory = results.outcome(samples, rows.ROWS["train-fp32-memory"])
    assert memory.peer_side == ("torch.compile", "float32")  # the smaller of the peers
    assert memory.ratios.median == pytest.approx(0.75)
    assert memory.verdict == "met"


def test_the_best_of_several_candidates_counts_on_both_sides():
    name = "prefill-512_tokens_per_second"
    rates = {"ours inference 1.1b int8": 210, "ours inference 1.1b bfloat16": 200}
    rates |= {"llama.cpp inference 1.1b int4": 150, "transformers inference 1.1b bfloat16": 190}
    found = results.outcome(results.Samples([sample(job, 0, **{name: rate}) for job, rate in rates.items()]), rows.ROWS["prefill-512-1.1b"])
    assert (found.our_side, found.peer_side) == (("ours", "int8"), ("transformers", "bfloat16"))
    assert found.ratios.median == pytest.approx(210 / 190)


def test_the_share_of_bandwidth_counts_the_bytes_a_step_reads():
    shape = shapes.SHAPES["1.1b"]
    lines = [*decode_samples().samples, sample("machine", 0, read_bytes=60e9)]
    found = results.outcome(results.Samples(lines), rows.ROWS["bandwidth-1.1b-int8"])
    step = shape.read_weights * 8.25 / 8 + results.DECODE_CONTEXT * 22 * 4 * 64 * 2 * 2  # keys and values of 4 heads of 64, 2 bytes
    assert found.ratios.median == pytest.approx(46 * step / 60e9)


def test_a_side_that_is_missing_is_not_run_with_its_reason():
    lines = [sample("ours inference 1.1b int8", 0, unavailable="no module llama_cpp for python"), *decode_samples(ours=()).samples]
    found = results.outcome(results.Samples(lines), rows.ROWS["decode-b1-1.1b-int8"])
    assert found.verdict == "not run: ours int8: no module llama_cpp for python"
    never = results.outcome(results.Samples([]), rows.ROWS["decode-b1-1.1b-int8"])
    assert "was not started" in never.verdict


def test_the_page_has_a_line_for_every_row_and_says_what_was_missed():
    header = {"header": {"date": "2026-01-01", "cpu": "Some CPU", "cores": 2, "threads": 2, "memory": "1 GiB", "command": "python x"}}
    page = report.render(results.Samples([header, *decode_samples(ours=(1.0,)).samples]))
    table = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 7]
    assert len(table) == len(rows.ROWS) + 1
    assert "**missed**" in next(line for line in table if line.startswith("| decode, batch 1, 1.1b, int8 |"))
    assert sum("not run" in line for line in table) == len(rows.ROWS) - 1
    assert "python x" in page
    assert "Some CPU" in page


def test_greedy_tokens_of_engines_are_compared():
    lines = [sample("ours inference 15m float32", 0, "15m", said=[1, 2]), sample("llama.cpp inference 15m float32", 0, "15m", said=[1, 2])]
    assert "ours, llama.cpp agree" in "\n".join(report.agreement_lines(results.Samples(lines)))
    lines[1]["said"] = [1, 3]
    assert "**differ**" in "\n".join(report.agreement_lines(results.Samples(lines)))


def test_jobs_carry_every_task_their_rows_need():
    jobs = rows.jobs_of("1.1b", [row for row in rows.ROWS.values() if row.group == "1.1b"], threads=2, models="m", quick=False)
    tasks = {(job.engine, job.form): set(job.tasks) for job in jobs}
    assert tasks["ours", "int8"] == {"decode-1", "decode-8", "prefill-512"}
    assert tasks["transformers", "bfloat16"] == {"prefill-512"}
    assert Job.from_json(jobs[0].to_json()) == jobs[0]


class StepClock:
    """An engine that records what it is asked."""

    version = "clock"

    def __init__(self):
        self.prompts = []

    def prefill(self, tokens_BT):
        self.prompts.append(tokens_BT)
        return tokens_BT[:, 0]

    def step(self, tokens_B):
        return tokens_B


def test_every_task_is_warmed_up_and_no_measured_prompt_was_seen_before():
    engine = StepClock()
    opened = []

    def open_engine(rows_, positions):
        opened.append((rows_, positions))
        return engine

    tasks = ["decode-1", "decode-8", "prefill-16", "long-32"]
    figures = inference_tasks.measure(open_engine, shapes.SHAPES["tiny"], tasks, steps=2, repeats=2)
    assert [rows_ for rows_, _ in opened] == [1, 8]
    names = {"decode-1", "decode-8", "prefill-16", "long-32", "long-32_decode"}
    assert {f"{name}_tokens_per_second" for name in names} <= figures.keys()
    sixteen = [prompt.tobytes() for prompt in engine.prompts if prompt.shape == (1, 16)]
    assert len(sixteen) == 3  # one warms up
    assert len(set(sixteen)) == 3
    assert all(positions >= prompt.shape[1] for _, positions in opened[:1] for prompt in engine.prompts if len(prompt) == 1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--dry-run", "--quick"], 0, "ours training 125m bfloat16"),
        (["--dry-run", "--rows", "load"], 0, "load: 5 pairs"),
        (["--rows", "lode"], 2, "unknown row lode; known: decode-b1-1.1b-int8"),
        (["--pairs", "0"], 2, "--pairs is at least 1"),
        (["--help"], 0, "install_peers.sh PEERS"),
    ],
)
def test_the_driver_answers_wrong_and_idle_words(words, code, message):
    done = subprocess.run([sys.executable, str(BENCHMARKS / "compare.py"), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert message in done.stdout + done.stderr


def test_a_worker_that_lacks_its_engine_says_so(tmp_path):
    job = Job(engine="llama.cpp", work="inference", shape="tiny", form="int8", tasks=("decode-1",), models=str(tmp_path))
    pythons = run_jobs.Pythons(ours=sys.executable, llama_cpp=sys.executable, torch=sys.executable)
    found = run_jobs.run_job(job, pythons)
    assert "no module llama_cpp" in found["unavailable"] or "is not in the folder of models" in found["unavailable"]
    missing = run_jobs.run_job(job, run_jobs.Pythons(ours="", llama_cpp="/no/such/python", torch=""))
    assert "No such file" in missing["unavailable"]


def test_a_run_that_was_killed_says_the_signal():
    assert run_jobs.why(-9, "") == "ended by signal SIGKILL"
    assert run_jobs.why(1, "x\nMemoryError: no room\n") == "exit code 1: MemoryError: no room"


def test_samples_are_read_from_json_lines(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(
        "\n".join(json.dumps(line) for line in [{"header": {"date": "d"}}, sample("machine", 0, read_bytes=1.0)]), encoding="utf-8"
    )
    samples = results.Samples.read(path)
    assert samples.header == {"date": "d"}
    assert samples.machine("read_bytes") == [1.0]


@pytest.mark.parametrize(("words", "code", "message"), [(["--help"], 0, "install_peers.sh ENVIRONMENT"), (["e", "--cuda"], 2, "--cuda")])
def test_the_installer_of_peers_explains_itself_and_refuses_unknown_words(words, code, message, tmp_path):
    script = str(BENCHMARKS / "install_peers.sh")
    done = subprocess.run(["bash", script, *words], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
