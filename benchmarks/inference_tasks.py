"""What is measured of every inference engine, in the same way: decode steps and prompts. No engine is imported here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from random_weights import prompt_ids
from shapes import Shape

DECODE_PROMPT = 64
"""Tokens read before decode is measured."""
WARM_STEPS = 4
BLOCKS = 3
"""Decode is the median of this many blocks of steps."""
SAID = 16
"""Greedy tokens reported, so that engines can be compared."""


class Engine(Protocol):
    """A model that reads and answers greedily: `(B, T)` ids in, `(B,)` next ids out."""

    version: str

    def prefill(self, tokens_BT: np.ndarray) -> np.ndarray: ...

    def step(self, tokens_B: np.ndarray) -> np.ndarray: ...


OpenEngine = Callable[[int, int], Engine]
"""(rows, positions of each) to an engine that is ready; positions hold prompt and answer."""


def task_room(task: str, steps: int) -> tuple[int, int]:
    """(rows, positions) a task needs: `decode-ROWS`, `prefill-TOKENS`, `long-TOKENS` or `say`."""
    kind, _, number = task.partition("-")
    if kind == "decode":
        return int(number), DECODE_PROMPT + WARM_STEPS + BLOCKS * steps + 1
    if kind == "prefill":
        return 1, int(number) + 1
    if kind == "long":
        return 1, int(number) + WARM_STEPS + steps + 1
    assert kind == "say", task
    return 1, DECODE_PROMPT + SAID + 1


def measure(open_engine: OpenEngine, shape: Shape, tasks: Sequence[str], *, steps: int, repeats: int) -> dict[str, object]:
    """Figures of every task, by name.

    Args:
        open_engine: gives an engine for so many rows; called once per number of rows, for the largest need.
        shape: of the model.
        tasks: `decode-1`, `decode-8`, `prefill-512`, `long-4096`, `say`.
        steps: decode steps of a block.
        repeats: prompts read after the first one, which warms up.
    """
    figures: dict[str, object] = {}
    rows_needed = sorted({task_room(task, steps)[0] for task in tasks})
    for rows in rows_needed:
        mine = [task for task in tasks if task_room(task, steps)[0] == rows]
        engine = open_engine(rows, max(task_room(task, steps)[1] for task in mine))
        for task in mine:
            kind, _, number = task.partition("-")
            if kind == "decode":
                figures[f"{task}_tokens_per_second"] = rows * decode_steps_per_second(engine, shape, rows, steps)
            elif kind == "prefill":
                figures[f"{task}_tokens_per_second"] = prefill_tokens_per_second(engine, shape, int(number), repeats)
            elif kind == "long":
                figures |= long_prompt(engine, shape, int(number), steps)
            else:
                figures["said"] = say(engine, shape)
        figures["version"] = engine.version
    return figures


def decode_steps_per_second(engine: Engine, shape: Shape, rows: int, steps: int) -> float:
    """Median of the blocks; all rows have read `DECODE_PROMPT` tokens and a few steps."""
    tokens_B = engine.prefill(prompt_ids(shape, rows, DECODE_PROMPT))
    for _ in range(WARM_STEPS):
        tokens_B = engine.step(tokens_B)
    rates = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(steps):
            tokens_B = engine.step(tokens_B)
        rates.append(steps / (time.perf_counter() - start))
    return statistics.median(rates)


def prefill_tokens_per_second(engine: Engine, shape: Shape, tokens: int, repeats: int) -> float:
    """Median over `repeats` prompts, the first answer token of each chosen; one prompt before them warms up."""
    engine.prefill(prompt_ids(shape, 1, tokens))
    times = []
    for number in range(1, repeats + 1):
        prompt = prompt_ids(shape, 1, tokens, number)
        start = time.perf_counter()
        engine.prefill(prompt)
        times.append(time.perf_counter() - start)
    return tokens / statistics.median(times)


def long_prompt(engine: Engine, shape: Shape, tokens: int, steps: int) -> dict[str, object]:
    """One reading of a long prompt, warmed up by a reading of an eighth of it, and decode at its end."""
    engine.prefill(prompt_ids(shape, 1, tokens // 8))
    prompt = prompt_ids(shape, 1, tokens)
    start = time.perf_counter()
    tokens_B = engine.prefill(prompt)
    read = time.perf_counter() - start
    for _ in range(WARM_STEPS):
        tokens_B = engine.step(tokens_B)
    start = time.perf_counter()
    for _ in range(steps):
        tokens_B = engine.step(tokens_B)
    return {
        f"long-{tokens}_tokens_per_second": tokens / read,
        f"long-{tokens}_decode_tokens_per_second": steps / (time.perf_counter() - start),
    }


def say(engine: Engine, shape: Shape) -> list[int]:
    """The first greedy tokens after a prompt."""
    tokens_B = engine.prefill(prompt_ids(shape, 1, DECODE_PROMPT))
    said = [int(tokens_B[0])]
    for _ in range(SAID - 1):
        tokens_B = engine.step(tokens_B)
        said.append(int(tokens_B[0]))
    return said
