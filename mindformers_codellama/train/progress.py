"""Where a person reads steps: MindFormers' lines in the log, or one bar in a terminal."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mindformers_codellama.train.monitor import StepReport, Stopwatch, bar_line, log_line

logger = logging.getLogger(__name__)


class Show(Protocol):
    """Receives every step."""

    def step(self, report: StepReport) -> None:
        """One finished step."""
        ...

    def note(self, text: str) -> None:
        """A sentence worth a line of its own."""
        ...

    def close(self) -> None:
        """The last step is done, or training stops."""
        ...


class Silent:
    """Shows nothing: ranks other than the first."""

    def step(self, report: StepReport) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing is open."""


class LogLines:
    """MindFormers' two lines every `per_print_times` steps, or once per sink epoch.

    Args:
        per_print_times: steps from one line to the next; 0 prints none.
        sink_mode: print the line of sink mode.
        sink_size: steps of a sink epoch; -1, one pass over the data, prints as without sink mode, because an
            epoch without a line looks like a hang.
    """

    def __init__(self, *, per_print_times: int, sink_mode: bool, sink_size: int) -> None:
        self.sink_mode = sink_mode
        group = sink_size if sink_mode and sink_size > 0 else 1
        self.every = per_print_times * group if sink_mode else per_print_times
        self.watch = Stopwatch()
        self.seconds, self.steps = 0.0, 0

    def step(self, report: StepReport) -> None:
        """Log the step when its turn has come; in sink mode with the mean time of the steps since the last line."""
        self.watch.add(report.seconds_per_step)
        self.seconds, self.steps = self.seconds + report.seconds_per_step, self.steps + 1
        if not self.every or (report.step % self.every and report.step != report.total_steps):
            return
        if self.sink_mode:
            report = replace(report, seconds_per_step=self.seconds / self.steps)
        self.seconds, self.steps = 0.0, 0
        left = self.watch.left(report.total_steps - report.step)
        logger.info("%s", log_line(report, sink_mode=self.sink_mode))
        logger.info("%s", bar_line(report, seconds_left=left))

    def note(self, text: str) -> None:
        """Log the sentence."""
        logger.info("%s", text)

    def close(self) -> None:
        """Nothing is open."""


class Bar:
    """One tqdm bar on stderr with loss, rate and tokens per second; log lines go above it."""

    def __init__(self, *, total: int, done: int) -> None:
        self.opened = ExitStack()
        self.opened.enter_context(logging_redirect_tqdm([logging.getLogger("mindformers_codellama")]))
        self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.1, mininterval=0.2)

    def step(self, report: StepReport) -> None:
        """Move the bar."""
        skipped = ", skipped" if report.overflow else ""
        text = f"loss {report.loss:.3f}, lr {report.learning_rate:.2e}, {report.tokens_per_second:.0f} tokens/s{skipped}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def note(self, text: str) -> None:
        """Write the sentence above the bar."""
        self.bar.write(text, file=self.bar.fp)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()
        self.opened.close()
