"""What a person is told when ranks have failed: who was first, why, and where to read more."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from mindformers_codellama.cluster.launch_ranks import Member, Ranks
from mindformers_codellama.cluster.launch_show import last_lines

ERROR_MARK = "codellama: error:"
LOST_PEERS = "Kill this process with SIGTERM"
"""MindSpore's words when a rank ends itself because it cannot reach others any more."""


def describe_failure(ranks: Ranks, failures: Sequence[Member]) -> list[str]:
    """The first failure, the last lines of the log that explains it, and what became of the others.

    Rank 0's output has been shown already and is not repeated; nor is an error that rank 0 has shown as well.

    Args:
        ranks: the attempt, all processes ended.
        failures: those that failed by themselves, in the order in which they ended; at least one.
    """
    first = failures[0]
    after = f"{first.ended_after or 0:.0f} s after the start"
    log = ranks.logs.of(first.rank)
    lines = [f"{first} ended first, {_ending(first)}, {after}; its log: {log}"]
    teller = _teller(ranks, failures)
    if teller.rank != 0:
        shown = "\n".join(last_lines(ranks.logs.of(0), 200)) if any(member.rank == 0 for member in ranks.members) else ""
        text = last_lines(ranks.logs.of(teller.rank))
        if not any(line.partition(ERROR_MARK)[2].strip() in shown for line in _marked_lines(text)):
            whose = "its last lines:" if teller is first else f"the last lines of {teller}:"
            lines += [whose, *(f"  | {line}" for line in text)]
    lines += _hints(ranks, first)
    endings: dict[str, list[Member]] = {}
    for member in failures[1:]:
        endings.setdefault(_ending(member), []).append(member)
    lines += [f"then ended {ending}: {_names(members)}." for ending, members in endings.items()]
    stopped = [member for member in ranks.ranks if member not in failures and member.code != 0]
    return [*lines, f"stopped: {_names(stopped)}."] if stopped else lines


def _teller(ranks: Ranks, failures: Sequence[Member]) -> Member:
    """Who says why: the first, unless it ended quietly with an error that another one of the same code tells."""
    first = failures[0]
    if _errors(ranks, first.rank):
        return first
    alike = [member for member in failures if member.code == first.code and _errors(ranks, member.rank)]
    return min(alike, key=lambda member: -1 if member.rank is None else member.rank, default=first)


def _errors(ranks: Ranks, rank: int | None) -> set[str]:
    return set(_marked_lines(last_lines(ranks.logs.of(rank), 200)))


def _marked_lines(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if ERROR_MARK in line]


def _ending(member: Member) -> str:
    if member.code >= 0:
        return f"with exit code {member.code}"
    try:
        return f"by {signal.Signals(-member.code).name} (signal {-member.code})"
    except ValueError:
        return f"by signal {-member.code}"


def _hints(ranks: Ranks, first: Member) -> list[str]:
    found = []
    if first.code == -signal.SIGKILL:
        found.append("SIGKILL comes from outside: from the system when memory runs out (see dmesg), or from a person.")
    job = ranks.job
    lost = first.rank is None or any(LOST_PEERS in line for line in _raw_tail(ranks, first.rank))
    if job.spans_machines:
        local = {place.rank for place in job.local}
        others = [rank for rank in range(job.ranks) if rank not in local]
        text = f"ranks {_span(others)} are on other machines; if one of them ended earlier, the log there says why."
        found.append(f"{first} lost other ranks: {text}" if lost else text)
    elif lost and first.rank is not None:
        found.append(f"{first} lost other ranks and was ended by MindSpore.")
    return found


def _raw_tail(ranks: Ranks, rank: int | None) -> list[str]:
    try:
        return ranks.logs.of(rank).read_text(errors="replace").splitlines()[-50:]
    except OSError:
        return []


def _names(members: Sequence[Member]) -> str:
    """`rank 1`, `ranks 1, 3` or `ranks 1 to 31`, and the scheduler."""
    numbers = sorted(member.rank for member in members if member.rank is not None)
    ranks = [f"rank{'s' if len(numbers) > 1 else ''} {_span(numbers)}"] if numbers else []
    return " and ".join([*ranks, *(str(member) for member in members if member.rank is None)])


def _span(numbers: Sequence[int]) -> str:
    """`2, 3` or `8 to 31`."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
