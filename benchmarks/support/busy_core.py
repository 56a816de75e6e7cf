"""The table of two threads beside a process that keeps one core busy."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid

__all__ = ["busy_core_table"]


def busy_core_table(row: dict[str, Any], path: str) -> str:
    """Write median and 95th percentile of each system, free and busy, by way of waiting."""
    lines = []
    for waiting, measured in row["waiting"].items():
        times = measured["times"]
        for length, systems in times["free"].items():
            for name, free in systems.items():
                if waiting != "default" and not name.startswith("fewer"):
                    continue  # the peers have threads of their own
                busy = times["busy"][length][name]
                cells = (_milliseconds(free), _milliseconds(busy))
                slower = f"{busy['median'] / free['median']:.1f}x"
                lines.append((f"{name}, {length} tokens", waiting, *cells, slower))
    missing = sorted({name for each in row["waiting"].values() for name in each["missing"]})
    left = f" Missing: {', '.join(missing)}." if missing else ""
    header = ("system", "OMP_WAIT_POLICY", "both cores free", "one core busy", "slower")
    return (
        f"{grid([header, *lines], words=2)}\n"
        f"Milliseconds of one text, median (95th percentile) of {row['rounds']} rounds in turn, "
        f"wall-clock, {row['threads']} threads of {row['processor']}.{left} Row in `{path}`."
    )


def _milliseconds(times: dict[str, float]) -> str:
    return f"{times['median']:.1f} ({times['p95']:.1f})"
