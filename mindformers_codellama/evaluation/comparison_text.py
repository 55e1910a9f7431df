"""A comparison as Markdown, and as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

ROWS = {
    "tasks": "tasks",
    "windows": "windows",
    "tokens": "tokens",
    "samples": "samples",
    "passed": "passed",
    "pass@1": "pass@1",
    "accuracy": "accuracy over questions",
    "exact_match": "exact match",
    "loss": "loss (nats per token)",
    "perplexity": "perplexity",
}
"""Rows of the first table whose numbers have ratios."""


def markdown(found: Mapping[str, Any]) -> str:
    """Tables of what `compare` gives: numbers side by side with their ratios, pairs, settings that differ."""
    columns, pairs = found["columns"], found["pairs"]
    head = ["", *(one["name"] for one in columns), *(f"{one['first']} / {one['second']}" for one in pairs)]
    body = []
    for key, label in ROWS.items():
        if key in columns[0]:
            values = [one[key] for one in columns]
            body.append([label, *map(number, values), *(number(ratio(values[0], value)) for value in values[1:])])
    if "confidence_95" in columns[0]:
        body.append(["95 % interval", *(interval(one["confidence_95"]) for one in columns), *([""] * len(pairs))])
    if any("published" in one for one in columns):
        body.append(["published", *(number(one.get("published")) for one in columns), *([""] * len(pairs))])
    parts = [f"# {found['suite'] or 'evaluation'}: {', '.join(one['name'] for one in columns)}", table(head, body)]
    sources = dict.fromkeys(one["published_source"] for one in columns if "published_source" in one)
    parts += [f"Published: {source}." for source in sources]
    parts += [_pairs_text(found, pairs)]
    if found["differs"]:
        rows = [[key, *map(str, values)] for key, values in found["differs"].items()]
        parts += ["Settings that differ:", table(["setting", *(one["name"] for one in columns)], rows)]
    parts.append("; ".join(f"{name}: {method}" for name, method in found["methods"].items()) + ".")
    return "\n\n".join(parts) + "\n"


def _pairs_text(found: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> str:
    """How each pair differs."""
    tested = any("p_value" in one for one in pairs)
    head = ["pair", "in common", "difference", "95 % of the difference"]
    head += ["both", "only the first", "only the second", "neither", "p (McNemar)"] if tested else []
    rows = []
    for one in pairs:
        row = [f"{one['first']} - {one['second']}", str(one["tasks"]), f"{one['difference']:+.4f}", interval(one["difference_95"])]
        counts = [one.get(key) for key in ("both", "only_first", "only_second", "neither", "p_value")] if tested else []
        rows.append([*row, *map(number, counts)])
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """A count as it is, a rate with 4 digits behind the point, nothing for None."""
    if value is None:
        return ""
    if float(value).is_integer() and abs(value) >= 2 or value in (0, 1):
        return str(int(value))
    return f"{value:.4f}" if abs(value) >= 0.0001 else f"{value:.2g}"


def interval(ends: Sequence[float]) -> str:
    """Both ends."""
    return f"{ends[0]:.4f} to {ends[1]:.4f}"


def ratio(first: float | None, second: float | None) -> float | None:
    """The first in units of the second; None when there is none."""
    return first / second if first is not None and second else None


def picture(found: Mapping[str, Any]) -> bytes:
    """Each result as a point with its interval, published figures as crosses; PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, measure = found["columns"], found["measure"]
    figure = Figure(figsize=(1.6 + 1.6 * len(columns), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(columns))
    values = [one[measure] for one in columns]
    if "confidence_95" in columns[0]:
        ends = [one["confidence_95"] for one in columns]
        errors = [[max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)]]
        errors.append([max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)])
        axes.errorbar(list(places), values, yerr=errors, fmt="o", capsize=5, color="tab:blue", label=f"{measure}, 95 %")
    else:
        axes.plot(list(places), values, "o", color="tab:blue", label=measure)
    shown = [(place, one["published"]) for place, one in zip(places, columns, strict=True) if "published" in one]
    if shown:
        axes.plot(*zip(*shown, strict=True), "x", color="tab:orange", label="published")
    axes.set_xticks(list(places), [one["name"] for one in columns])
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_ylabel(measure if measure != "loss" else "loss (nats per token)")
    if all(math.isfinite(value) for value in values) and measure != "loss":
        axes.set_ylim(bottom=0)
    axes.set_title(found["suite"])
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
