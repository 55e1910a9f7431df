"""What is shown of a rank's output, and which lines of a log are worth showing after a failure."""

import os
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_codellama.cluster import launch_show
from mindformers_codellama.cluster.launch_remarks import RemarkFilter
from mindformers_codellama.cluster.launch_show import LiveOutput, Logs, last_lines
from mindformers_codellama.errors import EnvironmentFault

REMARK = (
    "[WARNING] DISTRIBUTED(19759,7f7425dc3b80,python3):2026-11-21-14:40:04.605.717 [mindspore/ccsrc/cluster/rpc/tcp/tcp_comm.cc:485] "
    "Connect] Connection 11 source: 127.0.0.1:46802, destination: 127.0.0.1:8118\n"
)
FAULT = REMARK.replace("[WARNING]", "[ERROR]")
OWN = "2026-11-21 INFO [WARNING] is what we say ourselves\n"


def shown(text, cuts=()):
    data, filter_, out, start = text.encode(), RemarkFilter(), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        out += filter_.feed(data[start:cut])
        start = cut
    return (out + filter_.end()).decode()


def test_remarks_are_not_shown_and_all_else_is():
    assert shown(f"a\n{REMARK}b\n{REMARK}{REMARK}{FAULT}{OWN}\r 5%|# {REMARK}\r 6%") == f"a\nb\n{FAULT}{OWN}\r 5%| \r 6%".replace(
        "| ", "|# "
    )


def test_a_remark_without_an_end_is_not_shown_either():
    assert shown("a\n" + REMARK.rstrip()) == "a\n"


@given(
    st.lists(st.sampled_from([REMARK, FAULT, OWN, "x", "\r50%|##", "[", "[INFO] ", "[WARN", "line\n", "\n"]), max_size=8),
    st.lists(st.integers(0, 1500), max_size=6),
)
def test_however_the_bytes_arrive_the_same_is_shown(pieces, cuts):
    text = "".join(pieces)
    expected = re.sub(r"\[(?:INFO|WARNING)\] [A-Z]+\(\d+,[0-9a-f]+,python3\):[^\n]*(\n|$)", "", text)
    assert shown(text, [cut for cut in cuts if cut <= len(text)]) == expected


def test_a_bar_is_shown_at_once():
    filter_ = RemarkFilter()
    assert filter_.feed(b"\r 5%|#") == b"\r 5%|#"
    assert filter_.feed(b"[list] of something") == b"[list] of something"


def until(condition):
    """Wait for what another thread does."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 s"
        time.sleep(0.005)


def test_a_text_whose_line_end_comes_apart_is_not_cut_in_the_log(tmp_path, monkeypatch):
    shown_here = tmp_path / "shown"
    monkeypatch.setattr(launch_show, "UNFINISHED", 60)
    monkeypatch.setattr(launch_show, "_show", lambda target, data: bool(shown_here.open("ab").write(data)) or True)
    live = LiveOutput(Logs(tmp_path, "log").open(0), shows_all=True)
    out, err = os.dup(live.stdout), os.dup(live.stderr)
    live.start()
    os.write(out, b"one\n  two")
    until(lambda: shown_here.exists() and b"two" in shown_here.read_bytes())
    os.write(err, b"a remark\n")
    until(lambda: b"remark" in (tmp_path / "log").read_bytes())
    os.write(out, b"\n")
    os.close(out)
    os.close(err)
    live.close(30)
    assert (tmp_path / "log").read_bytes() == b"a remark\none\n  two\n"


def test_last_lines_are_those_that_say_something(tmp_path):
    path = tmp_path / "log"
    path.write_text(f"first\n\r10%\r20%\n{REMARK}\n  \n{FAULT}" + "last without end")
    assert last_lines(path) == ["first", "20%", FAULT.rstrip(), "last without end"]
    assert last_lines(path, 1) == ["last without end"]
    path.write_bytes(b"\xff\xfe broken\n" + b"x" * 400_000 + b"\nend")
    assert last_lines(path)[-1] == "end"
    assert last_lines(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("pattern", "rank", "scheduler"),
    [
        ("rank_{rank}/mindformer.log", "rank_3/mindformer.log", "scheduler/mindformer.log"),
        ("mindformers_{rank}.log", "mindformers_3.log", "scheduler.log"),
        ("worker_{rank}.log", "worker_3.log", "scheduler.log"),
        ("{rank}", "3", "scheduler"),
    ],
)
def test_names_of_logs(tmp_path, pattern, rank, scheduler):
    logs = Logs(tmp_path, pattern)
    assert (logs.of(3), logs.of(None)) == (tmp_path / rank, tmp_path / scheduler)


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"the log cannot be written: Not a directory. Fix: .*--log-dir"):
        Logs(tmp_path / "file").open(0)
