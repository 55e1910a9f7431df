"""The log line character by character, the time left, the curve and what is recorded."""

import json
import logging
import struct
import sys

import pytest
from tensorboardX.proto import event_pb2

from mindformers_codellama.config.sections import TrainLogSection
from mindformers_codellama.errors import TrainingError
from mindformers_codellama.train.monitor import StepReport, Stopwatch, bar_line, log_line, terminal_curve
from mindformers_codellama.train.progress import Bar
from mindformers_codellama.train.record import JSONL_NAME, Recorder, read_lines


def report(step=4, **change):
    facts = {
        "step": step, "total_steps": 100, "epoch": 1, "epochs": 2, "step_in_epoch": step, "epoch_size": 50, "loss": 1.2344,
        "mean_loss": 1.5, "learning_rate": 1e-5, "grad_norm": 0.7, "loss_scale": 65536, "overflow": False,
        "seconds_per_step": 0.1235, "samples": 8, "tokens": 2048,
    }  # fmt: skip
    return StepReport(**facts | change)


def test_the_sink_line_is_the_one_mindformers_prints():
    expected = (
        "{ Epoch:[  1/  2], step:[    4/   50], loss: 1.234, per_step_time: 123ms, lr: 1e-05, overflow cond: False, loss_scale: 65536.0"
    )
    assert log_line(report(), sink_mode=True) == expected


def test_without_sink_the_line_has_the_mean_of_the_epoch():
    assert "loss:[1.234/1.500], per_step_time" in log_line(report(), sink_mode=False)


def test_the_bar_line_has_share_bar_throughput_and_time_left():
    expected = "   4.0% |" + chr(0x2588) * 2 + " " * 48 + "| 64.78 samples/s/p  0:01:02 }"
    assert bar_line(report(), seconds_left=62.7) == expected
    assert bar_line(report(step=100), seconds_left=0).startswith("  100.0% |" + chr(0x2588) * 50 + "|")


def test_the_step_that_compiles_does_not_count_for_the_time_left():
    watch = Stopwatch()
    watch.add(60.0)
    assert watch.left(1) == 60.0
    watch.add(0.5)
    watch.add(0.5)
    assert watch.left(10) == pytest.approx(5.0)


def test_the_terminal_curve_falls_from_the_upper_left_to_the_lower_right():
    drawn = terminal_curve([10 - i * 0.1 for i in range(100)], width=20, height=4).splitlines()
    assert drawn[0] == "loss: 10.000 at the start, 0.300 at the end"
    top, bottom = drawn[1].split("|")[1], drawn[4].split("|")[1]
    assert len(top) < len(bottom)
    assert len(bottom) == 20
    assert terminal_curve([float("nan")]) == ""


def test_jsonl_tensorboard_and_png_are_written_and_nan_becomes_null(tmp_path):
    recorder = Recorder(tmp_path / "log", TrainLogSection())
    for step in range(1, 4):
        recorder.step(report(step, grad_norm=float("inf") if step == 2 else 0.5))
    recorder.evaluation(3, loss=1.0, perplexity=2.718)
    picture = recorder.plot()
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "log" / JSONL_NAME).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert lines[1]["grad_norm"] is None
    assert lines[3] == {"step": 3, "eval_loss": 1.0, "perplexity": 2.718}
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) > (400, 200)
    scalars = read_scalars(tmp_path / "log" / "tensorboard")
    assert scalars["loss"] == {step: pytest.approx(1.2344) for step in (1, 2, 3)}
    assert scalars["grad-norm"] == {1: 0.5, 3: 0.5}  # infinity has no place on an axis
    assert scalars["eval-loss"] == {3: 1.0}
    assert scalars["learning-rate"][2] == pytest.approx(1e-5)
    assert set(scalars) == {"loss", "learning-rate", "grad-norm", "loss-scale", "throughput", "eval-loss", "perplexity"}


def read_scalars(folder):
    """Tag to step to value of the event files in a folder: TFRecords (length, its checksum, data, its checksum) of Event messages."""
    found = {}
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = event_pb2.Event.FromString(data[12 : 12 + length]), data[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_a_new_run_puts_the_log_of_an_earlier_one_aside(tmp_path):
    for loss in (1.0, 2.0):
        recorder = Recorder(tmp_path, TrainLogSection(tensorboard=False))
        recorder.step(report(1, loss=loss))
        recorder.close()
    aside = [path for path in tmp_path.glob("train.*.jsonl")]
    assert [line["loss"] for path in aside for line in read_lines(path)] == [1.0]
    assert [line["loss"] for line in read_lines(tmp_path / JSONL_NAME)] == [2.0]


def test_lines_of_the_log_stand_above_the_bar_and_not_behind_it(capsys):
    logger = logging.getLogger("mindformers_codellama")
    logger.setLevel("INFO")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    bar = Bar(total=3, done=0)
    bar.step(report(1))
    logger.info("saved")
    bar.note("evaluated")
    bar.close()
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "saved" in lines
    assert "evaluated" in lines
    assert any("loss 1.234, lr 1.00e-05" in line for line in lines)


def test_a_resumed_log_drops_steps_that_are_made_again_and_a_cut_off_line(tmp_path):
    first = Recorder(tmp_path, TrainLogSection(tensorboard=False))
    for step in range(1, 6):
        first.step(report(step))
    first.close()
    with (tmp_path / JSONL_NAME).open("a") as file:
        file.write('{"step": 6, "lo')
    again = Recorder(tmp_path, TrainLogSection(tensorboard=False), first_step=3)
    assert again.steps == [1, 2, 3]
    again.step(report(4, loss=9.0))
    again.close()
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path / JSONL_NAME)][-2:] == [(3, 1.2344), (4, 9.0)]


def test_a_switched_off_log_writes_nothing(tmp_path):
    recorder = Recorder(tmp_path / "log", TrainLogSection(jsonl=False, tensorboard=False, plot=False))
    recorder.step(report())
    assert recorder.plot() is None
    assert not (tmp_path / "log").exists()


def test_a_full_disk_under_the_log_is_told(tmp_path):
    recorder = Recorder(tmp_path, TrainLogSection(tensorboard=False))
    recorder.step(report(1))
    recorder._lines.close()
    recorder._lines = open("/dev/full", "w")
    with pytest.raises(TrainingError, match=r"the disk is full. Fix: free some space and go on with --resume."):
        recorder.step(report(2))
    recorder.close()
