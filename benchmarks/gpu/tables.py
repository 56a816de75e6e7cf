"""Tables of the rows of a GPU: short ones for the end of a run, and those of `docs/gpu.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.runner import LEFT_OUT, errors_of
from fewer.report.format import ABSENT, grid, short, times

__all__ = ["TABLES", "newest", "summary", "write_table"]

Row = Mapping[str, Any]
_SHORT_CASES = 40  # of one section in the summary


def newest(rows: Sequence[Row]) -> list[Row]:
    """Return the newest row of each case, of real runs only."""
    return list({row["case"]: row for row in rows if not row["dry_run"]}.values())


def write_table(name: str, rows: Sequence[Row]) -> str | None:
    """Write a table of docs/gpu.md; `None` where no row is in it."""
    rows = [row for row in newest(rows) if row["section"] == name and "systems" in row]
    if name == "laws":
        rows = [row for row in newest(rows) if row["section"] == "laws"]
    return TABLES[name](rows) if rows else None


def summary(rows: Sequence[Row]) -> str:
    """Write the outcome of a run: laws, times, errors, what was left out."""
    lines = []
    for row in rows:
        systems = row.get("systems", {})
        cells = [_short_cell(name, system) for name, system in systems.items()]
        if cells:
            lines.append(f"{row['case']}: {', '.join(cells)}")
    for row in rows:
        lines += [f"ERROR {row['case']}: {error[:300]}" for error in errors_of(row)]
    for row in rows:
        if row["case"] == LEFT_OUT:
            lines.append(f"left out: {', '.join(row['left_out'])}")
    for row in rows:
        if row["section"] == "laws" and "passed" in row:
            lines.append(_laws_line(row))
            lines += [f"  {failure[:300]}" for failure in row["failures"]]
    failed = sum(bool(errors_of(row)) for row in rows)
    lines.append(f"{len(rows)} rows, {failed} with errors")
    return "\n".join(lines)


def _short_cell(name: str, system: Row) -> str:
    if "error" in system:
        return f"{name} failed"
    ms = system["wall_ms"]["median"] if _is_timed(system) else system.get("wall_ms")
    if ms is None:
        return f"{name} {short(system['busy_ms'])} ms busy"
    base = system.get("speedup", {}).get("padded")
    parts = [f"{name} {ms:.3g} ms"]
    parts += [f"{base:.2f}x"] if base else []
    if "synchronisations" in system:
        parts.append(f"{system['synchronisations']} waits, {system['idle_share']:.0%} idle")
    return " ".join(parts)


def _is_timed(system: Row) -> bool:
    return isinstance(system.get("wall_ms"), Mapping)


def _laws_line(row: Row) -> str:
    counts = f"{row['passed']} passed, {row['failed']} failed, {row['skipped_tests']} skipped"
    return f"laws: {counts}"


def _laws(rows: Sequence[Row]) -> str:
    return f"{_laws_line(rows[-1]).removeprefix('laws: ')} (`tests/gpu`).\n"


def _encoder(rows: Sequence[Row]) -> str:
    """Write a line for each case and arm."""
    heads = ("model", "lengths", "batch", "precision", "system", "FLOPs", "ms", "on the GPU")
    heads += ("against padded", "tokens/s", "MB", "off by")
    lines = [heads]
    for row in rows:
        where = (row["model"], row["lengths"], str(row["batch"]), row["precision"])
        for name, system in row["systems"].items():
            if _is_timed(system):
                lines.append((*where, name, *_encoder_cells(system)))
    return grid(lines, words=5)


def _encoder_cells(system: Row) -> tuple[str, ...]:
    difference = system.get("logit_difference")
    return (
        f"{system['flops_ratio']:.2f}",
        _ms(system["wall_ms"]),
        _ms(system["gpu_ms"]),
        _speedup(system, "padded"),
        f"{system['tokens_per_s']:,.0f}",
        ABSENT if system["memory_mb"] is None else f"{system['memory_mb']:,.0f}",
        ABSENT if difference is None else f"{difference:.1g}",
    )


def _kernels(rows: Sequence[Row]) -> str:
    """Write a line for each case and kernel."""
    heads = ("shape", "lengths", "batch", "kernel", "ms on the GPU", "TFLOP/s", "against padded")
    lines = [(*heads, "off by")]
    for row in rows:
        where = (row["model"], row["lengths"], str(row["batch"]))
        for name, system in row["systems"].items():
            if not _is_timed(system):
                continue
            difference = system.get("context_difference")
            lines.append(
                (
                    *where,
                    name,
                    _ms(system["gpu_ms"] or system["wall_ms"]),
                    f"{system['tflops_per_s']:.1f}",
                    _speedup(system, "sdpa-padded"),
                    ABSENT if difference is None else f"{difference:.1g}",
                )
            )
    return grid(lines, words=4)


def _host(rows: Sequence[Row]) -> str:
    """Write a line for each pass that was taken apart."""
    heads = ("model", "lengths", "batch", "system", "ms", "kernels' ms", "idle", "launches")
    lines = [(*heads, "waits of the host")]
    for row in rows:
        where = (row["model"], row["lengths"], str(row["batch"]))
        for name, system in row["systems"].items():
            if "busy_ms" not in system:
                continue
            lines.append(
                (
                    *where,
                    name,
                    short(system["wall_ms"]),
                    short(system["busy_ms"]),
                    f"{system['idle_share']:.0%}",
                    f"{system['launches']:,.0f}",
                    str(system["synchronisations"]),
                )
            )
    return grid(lines, words=4)


def _training(rows: Sequence[Row]) -> str:
    """Write a line for each model and system."""
    lines = [("model", "lengths", "batch", "system", "ms", "against padded", "tokens/s", "MB")]
    for row in rows:
        where = (row["model"], row["lengths"], str(row["batch"]))
        for name, system in row["systems"].items():
            if _is_timed(system):
                memory = system["memory_mb"]
                lines.append(
                    (
                        *where,
                        name,
                        _ms(system["wall_ms"]),
                        _speedup(system, "padded"),
                        f"{system['tokens_per_s']:,.0f}",
                        ABSENT if memory is None else f"{memory:,.0f}",
                    )
                )
    return grid(lines, words=4)


def _ms(summary: Row | None) -> str:
    if summary is None:
        return ABSENT
    return f"{short(summary['median'])} ({short(summary['p5'])}-{short(summary['p95'])})"


def _speedup(system: Row, base: str) -> str:
    factor = system["speedup"].get(base)
    return ABSENT if factor is None else times(factor, "faster", "slower", "as fast")


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "laws": _laws,
    "encoder": _encoder,
    "kernels": _kernels,
    "host": _host,
    "training": _training,
}
