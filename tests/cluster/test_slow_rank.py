"""A rank may work longer than MindSpore's collectives wait (30 s on CPU, measured with 2.10)."""

from pathlib import Path

from ranks import run_ranks

PROGRAM = Path(__file__).with_name("slow_rank_program.py")


def test_ranks_stay_together_while_one_works_for_36_seconds(tmp_path):
    run = run_ranks([str(PROGRAM)], 2, tmp_path, timeout=200).check()
    assert all("all right" in log for log in run.logs)
