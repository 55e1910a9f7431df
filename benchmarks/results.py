"""Samples to ratios: medians, spread, and whether a target is met. Pure functions over the JSON lines of a run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import MACHINE
from rows import GROUPS, Row, Side
from shapes import SHAPES

DECODE_CONTEXT = 100
"""Positions a row holds on average while decode at the start of a text is measured."""


@dataclass(frozen=True)
class Spread:
    """A figure over the pairs."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:.4g} ({low:.4g}-{high:.4g})"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row after a run."""

    row: Row
    ours: Spread | None = None
    our_side: Side | None = None
    peer: Spread | None = None
    peer_side: Side | None = None
    ratios: Spread | None = None
    """Pair by pair; of peer and ours for seconds."""
    reason: str = ""
    """Why there is no ratio."""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `no target` or `not run: ...`."""
        if self.ratios is None:
            return f"not run: {self.reason}"
        if self.row.target is None:
            return "no target"
        within = self.ratios.median <= self.row.target if self.row.kind == "memory" else self.ratios.median >= self.row.target
        return "met" if within else "**missed**"


class Samples:
    """Everything a run kept.

    Args:
        lines: objects as run_jobs.py keeps them; the header is the one with a key `header`.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        lines = list(lines)
        self.header: dict[str, Any] = next((dict(line["header"]) for line in lines if "header" in line), {})
        self.samples = [line for line in lines if "job" in line]

    @staticmethod
    def read(path: Path) -> Samples:
        return Samples(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())

    def figures(self, group: str, job: str, figure: str) -> dict[int, float]:
        """Pair to value."""
        mine = (line for line in self.samples if line["group"] == group and line["job"] == job and figure in line)
        return {line["pair"]: float(line[figure]) for line in mine}

    def reason(self, group: str, job: str) -> str:
        """Why a job gave nothing."""
        for line in self.samples:
            if line["group"] == group and line["job"] == job and "unavailable" in line:
                return str(line["unavailable"])
        return "was not started"

    def machine(self, figure: str, group: str = "") -> list[float]:
        """Every measurement of the machine, of one group or of all."""
        mine = (line for line in self.samples if line["job"] == MACHINE and figure in line)
        return [float(line[figure]) for line in mine if not group or line["group"] == group]

    def versions(self) -> list[str]:
        """What was measured, each once."""
        return sorted({str(line["version"]) for line in self.samples if "version" in line and line["job"] != MACHINE})

    def said(self) -> dict[str, dict[str, list[int]]]:
        """Group to job to the greedy tokens it printed."""
        found: dict[str, dict[str, list[int]]] = {}
        for line in self.samples:
            if "said" in line:
                found.setdefault(line["group"], {})[line["job"]] = line["said"]
        return found


def job_name(row: Row, side: Side) -> str:
    group = GROUPS[row.group]
    return f"{side[0]} {group.work} {group.shape} {side[1]}"


def best(samples: Samples, row: Row, sides: Sequence[Side]) -> tuple[Side, dict[int, float]] | None:
    """The candidate with the best median, and its values."""
    found = [(side, samples.figures(row.group, job_name(row, side), row.figure)) for side in sides]
    found = [(side, values) for side, values in found if values]
    if not found:
        return None
    choose = max if row.kind in ("rate", "bandwidth") else min
    return choose(found, key=lambda item: statistics.median(item[1].values()))


def missing(samples: Samples, row: Row, sides: Sequence[Side]) -> str:
    """Why none of the sides gave a value; a reason they share is said once."""
    reasons: dict[str, list[str]] = {}
    for engine, form in sides:
        reasons.setdefault(samples.reason(row.group, job_name(row, (engine, form))), []).append(f"{engine} {form}")
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def outcome(samples: Samples, row: Row) -> Outcome:
    """Ratios of one row, over the pairs both sides have."""
    ours = best(samples, row, row.ours)
    if row.kind == "bandwidth":
        return bandwidth_outcome(samples, row, ours)
    peer = best(samples, row, row.peers)
    if ours is None or peer is None:
        reasons = [missing(samples, row, sides) for found, sides in ((ours, row.ours), (peer, row.peers)) if found is None]
        parts: dict[str, Any] = {}
        if ours is not None:
            parts |= {"ours": Spread(tuple(ours[1].values())), "our_side": ours[0]}
        if peer is not None:
            parts |= {"peer": Spread(tuple(peer[1].values())), "peer_side": peer[0]}
        return Outcome(row=row, reason="; ".join(reasons), **parts)
    pairs = sorted(ours[1].keys() & peer[1].keys())
    ratios = tuple(peer[1][pair] / ours[1][pair] if row.kind == "seconds" else ours[1][pair] / peer[1][pair] for pair in pairs)
    return Outcome(
        row=row,
        ours=Spread(tuple(ours[1].values())),
        our_side=ours[0],
        peer=Spread(tuple(peer[1].values())),
        peer_side=peer[0],
        ratios=Spread(ratios),
    )


def bandwidth_outcome(samples: Samples, row: Row, ours: tuple[Side, dict[int, float]] | None) -> Outcome:
    """Bytes a decode step must read, per second, over what the machine read in the same pairs."""
    if ours is None:
        return Outcome(row=row, reason=missing(samples, row, row.ours))
    readings = samples.machine("read_bytes", row.group)
    if not readings:
        return Outcome(row=row, ours=Spread(tuple(ours[1].values())), our_side=ours[0], reason="the machine was not measured")
    read = statistics.median(readings)
    size = SHAPES[GROUPS[row.group].shape].decode_bytes(ours[0][1], context=DECODE_CONTEXT)
    shares = tuple(rate * size / read for rate in ours[1].values())
    return Outcome(row=row, ours=Spread(tuple(ours[1].values())), our_side=ours[0], peer=Spread(tuple(readings)), ratios=Spread(shares))
