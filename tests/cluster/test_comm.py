"""Groups, objects and point-to-point over real processes."""

from pathlib import Path

from ranks import run_ranks

PROGRAM = Path(__file__).with_name("comm_program.py")


def test_every_axis_reaches_its_ranks_and_no_others(tmp_path):
    run = run_ranks([str(PROGRAM), "2", "2", "2"], 8, tmp_path).check()
    assert all("all right" in log for log in run.logs)


def test_a_job_of_another_size_is_told(tmp_path):
    run = run_ranks([str(PROGRAM), "2", "2", "1"], 2, tmp_path)
    assert all(code for code in run.codes)
    assert "layout 2x2x1 needs 4 ranks, the job has 2" in run.logs[0]
