"""How many threads a model may use: what this process is really allowed, not what the host has.

A numeric library that sizes its pool by the host's cores is slower than one thread inside a small quota: two ONNX Runtime
threads on a one-core quota doubled the latency of one row (4.1 -> 8.2 microseconds, measured).
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores granted by the control group (v2 ``cpu.max``, else v1 CFS quota); ``None`` when unlimited or unknown."""
    for read in (_v2_quota, _v1_quota):
        try:
            quota = read(root)
        except (OSError, ValueError, IndexError):
            continue
        if quota is not None:
            return quota
    return None


def _v2_quota(root: Path) -> float | None:
    limit, period = (root / "cpu.max").read_text().split()[:2]
    return None if limit == "max" else int(limit) / int(period)


def _v1_quota(root: Path) -> float | None:
    quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
    period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    return None if quota <= 0 else quota / period


def usable_threads(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads worth starting: the smaller of CPU affinity and quota, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, allowed if quota is None else min(allowed, math.floor(quota)))
