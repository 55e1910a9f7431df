"""Figures of papers, by the number of their table; they are quoted beside ours and never taken for ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER = "Code Llama paper, arXiv 2308.12950v3"
PASS_AT = ("pass@1", "pass@10", "pass@100")
HUMANEVAL: Mapping[str, tuple[float, float, float]] = {
    "llama2_7b": (12.2, 25.2, 44.4),
    "llama2_13b": (20.1, 34.8, 61.2),
    "llama2_70b": (30.5, 59.4, 87.0),
    "codellama_7b": (33.5, 59.6, 85.9),
    "codellama_13b": (36.0, 69.4, 89.8),
    "codellama_34b": (48.8, 76.8, 93.0),
    "codellama_70b": (53.0, 84.6, 96.2),
    "codellama_7b_instruct": (34.8, 64.3, 88.1),
    "codellama_13b_instruct": (42.7, 71.6, 91.6),
    "codellama_34b_instruct": (41.5, 77.2, 93.5),
    "codellama_70b_instruct": (67.8, 90.3, 97.3),
    "codellama_7b_python": (38.4, 70.3, 90.6),
    "codellama_13b_python": (43.3, 77.4, 94.1),
    "codellama_34b_python": (53.7, 82.8, 94.7),
    "codellama_70b_python": (57.3, 89.3, 98.4),
}
"""Table 2, zero-shot: pass@1 greedy, pass@10 and pass@100 at temperature 0.8 and top-p 0.95, in percent."""
MBPP: Mapping[str, tuple[float, float, float]] = {
    "llama2_7b": (20.8, 41.8, 65.5),
    "llama2_13b": (27.6, 48.1, 69.5),
    "llama2_70b": (45.4, 66.2, 83.1),
    "codellama_7b": (41.4, 66.7, 82.5),
    "codellama_13b": (47.0, 71.7, 87.1),
    "codellama_34b": (55.0, 76.2, 86.6),
    "codellama_70b": (62.4, 81.1, 91.9),
    "codellama_7b_instruct": (44.4, 65.4, 76.8),
    "codellama_13b_instruct": (49.4, 71.2, 84.1),
    "codellama_34b_instruct": (57.0, 74.6, 85.4),
    "codellama_70b_instruct": (62.2, 79.6, 89.2),
    "codellama_7b_python": (47.6, 70.3, 84.8),
    "codellama_13b_python": (49.0, 74.0, 87.6),
    "codellama_34b_python": (56.2, 76.4, 88.2),
    "codellama_70b_python": (65.6, 81.5, 91.9),
}
"""Table 2, 3-shot, decoded as `HUMANEVAL`."""
INFILLING: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "codellama_7b": {"single-line": (74.1, 83.3), "multi-line": (48.2, 50.8), "random-span": (59.7, 39.0)},
    "codellama_13b": {"single-line": (75.9, 85.6), "multi-line": (51.0, 56.1), "random-span": (63.6, 41.9)},
}
"""Table 14, the released models: pass@1 of HumanEval infilling, prefix first and suffix first, in percent."""
MMLU_PAPER = "Llama 2 paper, arXiv 2307.09288"
MMLU: Mapping[str, float] = {"llama2_7b": 45.3, "llama2_13b": 54.8, "llama2_70b": 68.9}
"""Table 3, 5-shot accuracy, in percent; the Code Llama paper has none."""


def published(suite: str, model: str, *, benchmark: str = "", suffix_first: bool | None = None) -> dict[str, Any]:
    """What a paper reports of a model: its `source` and rates in [0, 1]; empty when there is nothing.

    Args:
        suite: `humaneval`, `mbpp`, `humaneval-infilling` or `mmlu`.
        model: registry name, or empty.
        benchmark: of `humaneval-infilling`.
        suffix_first: its order; None is by the cursor, which no paper reports.
    """
    table = {"humaneval": HUMANEVAL, "mbpp": MBPP}.get(suite, {}).get(model)
    if table is not None:
        return {"source": f"{PAPER}, table 2"} | {name: value / 100 for name, value in zip(PASS_AT, table, strict=True)}
    if suite == "mmlu" and model in MMLU:
        return {"source": f"{MMLU_PAPER}, table 3", "accuracy": MMLU[model] / 100}
    orders = INFILLING.get(model, {}).get(benchmark) if suite == "humaneval-infilling" else None
    if orders is None or suffix_first is None:
        return {}
    return {"source": f"{PAPER}, table 14", "pass@1": orders[suffix_first] / 100}
