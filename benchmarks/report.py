"""The page of results: targets beside what was reached, every figure, the machine, the commands. Markdown from samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from jobs import MACHINE
from results import Outcome, Samples, Spread, outcome
from rows import ROWS, Row

INTRODUCTION = """# Results: ours beside llama.cpp, transformers and torch, in turns, in one run

Written by `benchmarks/compare.py`; the samples are in `benchmarks/RESULTS.jsonl`. Only the ratios carry over to another day or
machine: every pair is measured within minutes, each sample in a process of its own after a warm-up, both sides with the same
number of threads. What was tried and did not help is in `docs/LOG.md`. Memory of conversion is in
[docs/checkpoints.md](../docs/checkpoints.md) (`benchmarks/convert_memory.py`)."""

EXPLANATION = """The ratio is ours over the peer, for seconds the peer over ours, for memory ours over the peer: median of the pairs
(least-largest). A target of memory is an upper bound. Where a side has several candidates the best counts, and is named.
"share of read bandwidth" is the bytes of the weights and of the cache that a decode step reads, per second, over the bytes per
second the machine reads with the same threads. Rows without a target are for information."""


def number(value: float, unit: str) -> float:
    """In the unit shown: MiB for bytes, GB/s for bandwidth."""
    return value / 2**20 if unit == "bytes" else value


def shown(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "-"
    return str(Spread(tuple(number(value, unit) for value in spread.values))) + (" MiB" if unit == "bytes" else f" {unit}")


def target_line(found: Outcome) -> str:
    row = found.row
    target = "-" if row.target is None else f"{'<=' if row.kind == 'memory' else '>='} {row.target:g}"
    if row.kind == "bandwidth":
        ours = shown(found.ours, "tokens/s")
        peer = "-" if found.peer is None else f"machine: {Spread(tuple(value / 1e9 for value in found.peer.values))} GB/s"
    else:
        ours, peer = shown(found.ours, row.unit), shown(found.peer, row.unit)
        if found.our_side and len(row.ours) > 1:
            ours = f"{found.our_side[1]}: {ours}"
        if found.peer_side:
            peer = f"{found.peer_side[0]} {found.peer_side[1]}: {peer}"
    ratio = "-" if found.ratios is None else f"{found.ratios.median:.2f} ({min(found.ratios.values):.2f}-{max(found.ratios.values):.2f})"
    return f"| {row.title} | {ours} | {peer} | {ratio} | {target} | {found.verdict} |"


def target_table(samples: Samples, rows: Sequence[Row]) -> list[str]:
    lines = ["| work | ours | peer | ratio | target | result |", "|---|---|---|---|---|---|"]
    return lines + [target_line(outcome(samples, row)) for row in rows]


def figure_table(samples: Samples) -> list[str]:
    """Every number of every job."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for line in samples.samples:
        if line["job"] == MACHINE or "unavailable" in line:
            continue
        figures = found.setdefault((line["group"], line["job"]), {})
        for name, value in line.items():
            if isinstance(value, float | int) and name not in ("pair", "seconds"):
                figures.setdefault(name, []).append(float(value))
    lines = ["| group | engine, work, shape, form | figure | median (least-largest) |", "|---|---|---|---|"]
    for (group, job), figures in found.items():
        for name, values in figures.items():
            unit = "bytes" if name == "peak_memory" else ""
            title = name.replace("_", " ").replace("tokens per second", "tokens/s")
            lines.append(f"| {group} | {job} | {title} | {shown(Spread(tuple(values)), unit).strip()} |")
    return lines


def machine_line(samples: Samples) -> str:
    header = samples.header
    parts = []
    for name, unit, scale in (
        ("read_bytes", "GB/s read", 1e9),
        ("float32_ops", "GFLOP/s fp32", 1e9),
        ("bfloat16_ops", "GFLOP/s bf16", 1e9),
        ("int8_ops", "GOP/s int8", 1e9),
    ):
        values = [value for value in samples.machine(name) if value]
        if values:
            parts.append(f"{statistics.median(values) / scale:.0f} ({min(values) / scale:.0f}-{max(values) / scale:.0f}) {unit}")
    measured = f" Measured limits: {', '.join(parts)}." if parts else ""
    cores = f"{header.get('threads', '?')} threads of {header.get('cores', '?')} cores"
    return f"{header.get('cpu', 'unknown processor')}, {cores}, {header.get('memory', '?')}.{measured}"


def agreement_lines(samples: Samples) -> list[str]:
    """Whether engines with float32 weights said the same tokens: they hold the same random model."""
    lines = []
    for group, said in samples.said().items():
        if len(said) > 1:
            same = len({tuple(tokens) for tokens in said.values()}) == 1
            names = ", ".join(name.split(" ")[0] for name in said)
            lines.append(f"Greedy tokens of the same float32 weights ({group}): {names} {'agree' if same else '**differ**'}.")
    return lines


def render(samples: Samples, *, picture: str = "") -> str:
    """The whole page."""
    header = samples.header
    rows = [ROWS[name] for name in header.get("rows", ROWS)]
    lines = [INTRODUCTION, "", f"## {header.get('date', 'undated')}", "", machine_line(samples), ""]
    lines += [f"{', '.join(samples.versions())}. {header.get('system', '')}".strip()]
    busy = f" Load average at the start: {header['load']}." if "load" in header else ""
    lines += [f"Command: `{header.get('command', 'unknown')}`.{busy}", "", *agreement_lines(samples), ""]
    if header.get("note"):
        lines += [str(header["note"]), ""]
    lines += [*target_table(samples, rows), "", EXPLANATION, ""]
    if picture:
        lines += [f"![Roofline: decode and prefill beside what the machine can read and compute]({picture})", ""]
    lines += ["## Every figure", "", *figure_table(samples), ""]
    return "\n".join(lines)
