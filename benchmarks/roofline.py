"""Roofline plot: decode and prefill beside measured bandwidth and peak arithmetic. Needs matplotlib."""

from __future__ import annotations

import statistics
from pathlib import Path

from jobs import LLAMA_CPP, OURS, TRANSFORMERS
from results import DECODE_CONTEXT, Samples
from shapes import GGUF_BITS, OUR_BITS, SHAPES

MARKS = {OURS: ("o", "#c0392b"), LLAMA_CPP: ("s", "#2c6fbb"), TRANSFORMERS: ("^", "#7f8c8d")}
ROOFS = {"int8": "int8_ops", "bfloat16": "bfloat16_ops", "float32": "float32_ops"}
Point = tuple[str, str, float, float]
"""(engine, label, operations per byte, operations per second)."""


def points(samples: Samples) -> list[Point]:
    """One point per engine, form and measured work; bytes are what must be read at least: weights once per step, and the cache."""
    collected: dict[tuple[str, str, str, str], list[float]] = {}
    for line in samples.samples:
        words = line["job"].split(" ")
        if len(words) != 4 or words[0] not in MARKS or words[2] not in SHAPES:
            continue
        for name, value in line.items():
            if name.startswith(("decode-", "prefill-")) and name.endswith("_tokens_per_second"):
                collected.setdefault((words[0], words[2], words[3], name.split("_")[0]), []).append(float(value))
    return [point(*key, statistics.median(rates)) for key, rates in collected.items()]


def point(engine: str, shape_name: str, form: str, task: str, tokens_per_second: float) -> Point:
    """Where one figure lies."""
    shape = SHAPES[shape_name]
    kind, _, number = task.partition("-")
    bits = (OUR_BITS if engine == OURS else GGUF_BITS)[form]
    scale = bits / OUR_BITS[form]
    if kind == "decode":
        rows = int(number)
        cache = shape.decode_bytes(form, context=DECODE_CONTEXT, rows=rows) - shape.decode_bytes(form, context=0)
        size = shape.decode_bytes(form, context=0) * scale + cache
        operations = 2 * shape.read_weights * rows
        steps = tokens_per_second / rows
    else:
        size = shape.decode_bytes(form, context=0) * scale
        operations = shape.prefill_ops(int(number))
        steps = tokens_per_second / int(number)
    return engine, f"{shape_name} {form} {task}", operations / size, operations * steps


def draw(samples: Samples, path: Path) -> bool:
    """Write the picture; False when there is nothing to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    found = points(samples)
    readings = samples.machine("read_bytes")
    if not found or not readings:
        return False
    read = statistics.median(readings)
    figure, axes = pyplot.subplots(figsize=(7.5, 5))
    tops = {form: statistics.median(samples.machine(name)) for form, name in ROOFS.items() if any(samples.machine(name))}
    bend = max(tops.values(), default=read) / read
    low, high = 0.5 * min(x for *_, x, _ in found), max(3 * max(x for *_, x, _ in found), 3 * bend)
    for form, top in tops.items():
        axes.plot([max(low, top / read), high], [top, top], color="black", linewidth=0.8)
        axes.text(high, top, f"{form} ", ha="right", va="bottom", fontsize=7)
    axes.plot([low, bend], [read * low, read * bend], color="black", linewidth=0.8)
    axes.text(low * 1.1, read * low * 1.4, f"{read / 1e9:.0f} GB/s", fontsize=7, rotation=35)
    for engine, (mark, colour) in MARKS.items():
        mine = [(x, y) for name, _, x, y in found if name == engine]
        if mine:
            axes.scatter(*zip(*mine, strict=True), marker=mark, s=22, color=colour, label=engine, alpha=0.75, linewidths=0)
    for engine, label, x, y in found:
        if engine == OURS:
            axes.annotate(label, (x, y), fontsize=4.5, xytext=(2, 2), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte read", ylabel="operations per second")
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
