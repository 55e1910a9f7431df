"""The CSV files of speed sweeps, as other suites write them, so that their tables can be put side by side.

`SweepFile`: `multibatch_performance_{model}_device{id}.csv` of the ATB speed scripts. `ModelTestFiles`:
`performance_pa_batch{B}_tp{W}_result.csv` and its aligned sibling of the ATB model tests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mindformers_codellama.checkpoint.files import atomic_file
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines.performance import Timing

SWEEP_HEADER = (
    "Batch,Input_seq_len,Output_seq_len,TotalTime(s),first_token_time(ms),avg_token_time(ms),avg TPS(tokens/s),E2E TPS(tokens/s)\n"
)

MODEL_TEST_COLUMNS = (
    ("Model", 15),
    ("Batchsize", 15),
    ("In_seq", 15),
    ("Out_seq", 15),
    ("Total time(s)", 15),
    ("Prefill all time(ms)", 25),
    ("Prefill average time(ms)", 25),
    ("Non-first token time(ms)", 25),
    ("Non-first token Throughput(Tokens/s)", 36),
    ("Throughput(Tokens/s)", 25),
    ("Non-first token Throughput Average(Tokens/s)", 45),
    ("E2E Throughput Average(Tokens/s)", 35),
)
"""Name and width of each column; the aligned file calls the tenth `E2E Throughput(Tokens/s)`."""
ALIGNED_NAMES = {"Throughput(Tokens/s)": "E2E Throughput(Tokens/s)"}


def sweep_line(timing: Timing) -> str:
    """One line of the sweep: times with two decimals; averages are 0.00 when there is one token only."""
    case = timing.case
    return (
        f"{case.batch},{case.input_length},{case.output_length},{timing.total_seconds:.2f},{1000 * timing.first_seconds:.2f},"
        f"{1000 * timing.next_seconds:.2f},{timing.next_rate:.2f},{timing.whole_rate:.2f}\n"
    )


class SweepFile:
    """A file that grows by a line per case; lines of earlier runs stay.

    Args:
        folder: where it is.
        model: name of the model in its name.
        device: number of the device, or `cpu`.
    """

    def __init__(self, folder: Path, model: str, device: str) -> None:
        self.path = folder / f"multibatch_performance_{model}_device{device}.csv"

    def begin(self) -> None:
        """Write the header unless the file has it.

        Raises:
            ConfigError: a file of that name with another first line.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                first = file.readline()
            if first != SWEEP_HEADER:
                raise ConfigError(self.path, "exists and does not begin with this table's header.", fix="move it away, or give --output.")
            return
        self._append(SWEEP_HEADER)

    def add(self, timing: Timing) -> None:
        """Append one case."""
        self._append(sweep_line(timing))

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def model_test_rows(model: str, timings: Sequence[Timing]) -> list[list[str]]:
    """Cells of the cases of one batch size, averages in the last row only.

    The whole batch is read in one go, so that both prefill columns hold the same number.
    """
    rows = []
    for timing in timings:
        case, first = timing.case, 1000 * timing.first_seconds
        numbers = (timing.total_seconds, first, first, 1000 * timing.next_seconds, timing.next_rate, timing.whole_rate)
        rows.append([model, str(case.batch), str(case.input_length), str(case.output_length), *(str(round(n, 10)) for n in numbers)])
    if rows:
        averages = (sum(t.next_rate for t in timings) / len(timings), sum(t.whole_rate for t in timings) / len(timings))
        rows[-1] += [str(round(average, 10)) for average in averages]
    return rows


class ModelTestFiles:
    """The two files of one batch size, written whole after every case.

    Args:
        folder: where results of all models lie.
        hardware: `NPU` or `CPU`.
        kind: what was computed in: `fp16`, `bf16`, `fp16_w8`, ...
        model: name of the model.
        batch: rows.
        ranks: devices that hold the model together.
    """

    def __init__(self, folder: Path, *, hardware: str, kind: str, model: str, batch: int, ranks: int) -> None:
        place = folder / "results" / hardware / "performance_test" / "performance" / kind / model
        self.model = model
        self.plain = place / f"performance_pa_batch{batch}_tp{ranks}_result.csv"
        self.aligned = place / f"performance_pa_batch{batch}_tp{ranks}_formatted_result.csv"

    def write(self, timings: Sequence[Timing]) -> None:
        """Replace both files by these cases."""
        rows = model_test_rows(self.model, timings)
        self.plain.parent.mkdir(parents=True, exist_ok=True)
        plain = io.StringIO()
        writer = csv.writer(plain, lineterminator="\n")
        writer.writerow([name for name, _ in MODEL_TEST_COLUMNS])
        writer.writerows(row + [""] * (len(MODEL_TEST_COLUMNS) - len(row)) for row in rows)
        _replace(self.plain, plain.getvalue())
        titles = [ALIGNED_NAMES.get(name, name) for name, _ in MODEL_TEST_COLUMNS]
        _replace(self.aligned, "".join(_aligned(row) for row in [titles, *rows]))


def _aligned(cells: Sequence[str]) -> str:
    widths = [width for _, width in MODEL_TEST_COLUMNS[: len(cells)]]
    return "|".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + "\n"


def _replace(path: Path, text: str) -> None:
    with atomic_file(path, force=True) as file:
        file.write(text.encode())
