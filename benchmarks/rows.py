"""The table of what is compared: which figure, of whom, and what ratio is wanted. Needs nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs import COMPILED, EAGER, LLAMA_CPP, OURS, PLAIN, TRANSFORMERS, Job

Side = tuple[str, str]
"""(engine, form)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows whose jobs take turns: all of them are measured once before any is measured again."""

    work: str
    shape: str
    pairs: int
    """Samples of every job."""
    quick_pairs: int
    """The same with --quick."""
    steps: int
    repeats: int = 2
    rows: int = 0
    tokens: int = 0


GROUPS = {
    "tiny": Group(work="inference", shape="tiny", pairs=2, quick_pairs=1, steps=8),
    "15m": Group(work="inference", shape="15m", pairs=3, quick_pairs=2, steps=100),
    "125m": Group(work="inference", shape="125m", pairs=3, quick_pairs=2, steps=32),
    "1.1b": Group(work="inference", shape="1.1b", pairs=3, quick_pairs=1, steps=16, repeats=1),
    "7b-layers": Group(work="inference", shape="7b-layers", pairs=3, quick_pairs=1, steps=24),
    "long": Group(work="inference", shape="1.1b", pairs=2, quick_pairs=1, steps=8),
    "load": Group(work="first-token", shape="1.1b", pairs=5, quick_pairs=3, steps=0),
    "train-fp32": Group(work="training", shape="125m", pairs=2, quick_pairs=1, steps=2, rows=4, tokens=512),
    "train-bf16": Group(work="training", shape="125m", pairs=2, quick_pairs=1, steps=3, rows=4, tokens=512),
    "load-tiny": Group(work="first-token", shape="tiny", pairs=2, quick_pairs=1, steps=0),
    "train-tiny": Group(work="training", shape="tiny", pairs=2, quick_pairs=1, steps=2, rows=2, tokens=32),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the results."""

    title: str
    group: str
    figure: str
    """Name in the worker's figures."""
    ours: tuple[Side, ...]
    """Candidates; the best one counts."""
    peers: tuple[Side, ...]
    """Candidates; the best one counts. Empty compares with the machine's read bandwidth."""
    target: float | None = None
    kind: str = "rate"
    """`rate` (ours / peer), `seconds` (peer / ours), `memory` (ours / peer, wanted small) or `bandwidth` (share of the machine's)."""
    unit: str = "tokens/s"
    task: str = ""
    """Of inference."""
    quick: bool = True
    """Also part of --quick."""


def _ours(*forms: str) -> tuple[Side, ...]:
    return tuple((OURS, form) for form in forms)


def _llama(*forms: str) -> tuple[Side, ...]:
    return tuple((LLAMA_CPP, form) for form in forms)


def _decode(group: str, rows: int, form: str, target: float | None, **more: object) -> Row:
    return Row(
        title=f"decode, batch {rows}, {group}, {form}",
        group=group,
        figure=f"decode-{rows}_tokens_per_second",
        ours=_ours(form),
        peers=_llama(form),
        target=target,
        task=f"decode-{rows}",
        **more,
    )


def _bandwidth(group: str, form: str, target: float | None) -> Row:
    return Row(
        title=f"decode, batch 1, {group}, {form}: share of read bandwidth",
        group=group,
        figure="decode-1_tokens_per_second",
        ours=_ours(form),
        peers=(),
        target=target,
        kind="bandwidth",
        unit="of the bandwidth",
        task="decode-1",
    )


def _prefill(group: str, target: float, peers: tuple[Side, ...], forms: Sequence[str] = ("bfloat16", "int8", "int4")) -> Row:
    return Row(
        title=f"prefill of 512 tokens, {group}",
        group=group,
        figure="prefill-512_tokens_per_second",
        ours=_ours(*forms),
        peers=peers,
        target=target,
        task="prefill-512",
    )


ANY_WIDTH = (*_llama("bfloat16", "int8", "int4"), (TRANSFORMERS, "bfloat16"))
LONG_PEERS = (*_llama("bfloat16", "int4"), (TRANSFORMERS, "bfloat16"))
LONG = {"group": "long", "ours": _ours("bfloat16", "int8"), "peers": LONG_PEERS, "target": 1.0, "task": "long-4096", "quick": False}
LOAD = {"group": "load", "ours": _ours("int8"), "peers": _llama("int8"), "kind": "seconds", "unit": "s"}


def _training(form: str, peers: tuple[Side, ...], target: float) -> dict[str, Row]:
    group = "train-fp32" if form == "float32" else "train-bf16"
    common = {"group": group, "ours": _ours(form), "peers": peers}
    name = f"training step, 125m, batch 4 x 512, {form}"
    return {
        group: Row(title=name, figure="training_tokens_per_second", target=target, **common),
        f"{group}-memory": Row(title=f"{name}: peak memory", figure="peak_memory", target=0.8, kind="memory", unit="bytes", **common),
    }


ROWS: dict[str, Row] = {
    **{f"decode-b1-1.1b-{form}": _decode("1.1b", 1, form, target) for form, target in (("int8", 1.15), ("int4", 1.25), ("bfloat16", 1.05))},
    **{f"bandwidth-1.1b-{form}": _bandwidth("1.1b", form, 0.9) for form in ("int8", "int4", "bfloat16")},
    **{f"decode-b8-{group}-{form}": _decode(group, 8, form, 1.2) for group in ("125m", "1.1b") for form in ("int8", "int4")},
    **{f"prefill-512-{group}": _prefill(group, 1.05, ANY_WIDTH) for group in ("125m", "1.1b")},
    **{f"decode-b1-7b-{form}": _decode("7b-layers", 1, form, 1.0) for form in ("int8", "int4")},
    "prefill-512-7b": _prefill("7b-layers", 1.0, _llama("int8", "int4"), ("int8", "int4")),
    **_training("float32", ((EAGER, "float32"), (COMPILED, "float32")), 1.1),
    **_training("bfloat16", ((COMPILED, "bfloat16"),), 1.0),
    "load": Row(title="load to first token, 1.1b, int8", figure="load_to_first_token_seconds", target=1.0, **LOAD),
    "load-process": Row(title="the same from the start of the process, imports included", figure="process_to_first_token_seconds", **LOAD),
    "long": Row(title="prompt of 4,096 tokens, 1.1b", figure="long-4096_tokens_per_second", **LONG),
    "long-decode": Row(title="decode after 4,096 tokens, 1.1b", figure="long-4096_decode_tokens_per_second", **LONG),
    **{f"decode-b1-125m-{form}": _decode("125m", 1, form, None) for form in ("int8", "int4", "bfloat16")},
    **{f"decode-b1-15m-{form}": _decode("15m", 1, form, None) for form in ("int8", "bfloat16")},
    "plain": Row(
        title="decode, batch 1, 15m, float32, beside our own plain operators",
        group="15m",
        figure="decode-1_tokens_per_second",
        ours=_ours("float32"),
        peers=((PLAIN, "float32"), (LLAMA_CPP, "float32"), (TRANSFORMERS, "float32")),
        task="decode-1",
        quick=False,
    ),
    "try-decode": Row(
        title="decode, batch 8, tiny model",
        group="tiny",
        figure="decode-8_tokens_per_second",
        ours=(*_ours("float32", "bfloat16", "int8", "int4"), (PLAIN, "float32")),
        peers=(*_llama("float32", "bfloat16", "int8", "int4"), (TRANSFORMERS, "float32")),
        task="decode-8",
    ),
    "try-bandwidth": _bandwidth("tiny", "int8", None),
    "try-long": Row(
        title="prompt of 256 tokens, tiny model",
        group="tiny",
        figure="long-256_tokens_per_second",
        ours=_ours("float32"),
        peers=_llama("float32"),
        task="long-256",
    ),
    "try-load": Row(title="load to first token, tiny model", **LOAD | {"group": "load-tiny"}, figure="load_to_first_token_seconds"),
    "try-training": Row(
        title="training step, tiny model",
        group="train-tiny",
        figure="training_tokens_per_second",
        ours=(*_ours("float32", "bfloat16"), (PLAIN, "float32")),
        peers=((EAGER, "float32"), (COMPILED, "float32"), (COMPILED, "bfloat16")),
    ),
}
"""By the name `--rows` takes."""

TRIAL = [name for name in ROWS if name.startswith("try-")]
"""Rows of --try, in no other run."""

SAYING = "say"
"""Task that makes engines print greedy tokens; asked of float32 jobs, which must agree."""


def jobs_of(group: str, rows: Sequence[Row], *, threads: int, models: str, quick: bool) -> list[Job]:
    """One job per engine and form that any of the rows needs, ours and peers taking turns."""
    shape = GROUPS[group]
    tasks: dict[Side, list[str]] = {}
    for row in rows:
        for side in (*row.ours, *row.peers):
            mine = tasks.setdefault(side, [])
            if row.task and row.task not in mine:
                mine.append(row.task)
    for side, mine in tasks.items():
        if side[1] == "float32" and shape.work == "inference":
            mine.append(SAYING)
    steps = shape.steps
    return [
        Job(
            engine=engine,
            work=shape.work,
            shape=shape.shape,
            form=form,
            tasks=tuple(tasks[engine, form]),
            threads=threads,
            steps=max(1, steps // 2) if quick and shape.work == "training" else steps,
            repeats=1 if quick else shape.repeats,
            rows=shape.rows,
            tokens=shape.tokens,
            models=models,
        )
        for engine, form in sorted(tasks, key=lambda side: (side[1], side[0] not in (OURS, PLAIN), side[0]))
    ]
