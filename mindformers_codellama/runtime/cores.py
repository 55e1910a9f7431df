"""How many cores this process may use; containers often allow fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mindformers_codellama.cluster.environment import LOCAL_RANKS

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """This rank's share of the smaller of the scheduler's affinity and the control group's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    cores = allowed if quota is None else min(allowed, math.ceil(quota))
    sharing = os.environ.get(LOCAL_RANKS, "")
    return max(1, cores // (int(sharing) if sharing.isdecimal() and int(sharing) else 1))


def _quota(cgroup: Path) -> float | None:
    """Cores of time per second that a control group of version 2 or 1 grants; None when unlimited or unknown."""
    try:
        limit, _, period = (cgroup / "cpu.max").read_text().strip().partition(" ")
    except OSError:
        try:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(limit) / int(period)
