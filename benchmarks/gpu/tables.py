"""Tables of the rows of a GPU: short ones for the end of a run, and those of `docs/gpu.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.runner import LEFT_OUT, errors_of
from fewer.measure.rows import read_results
from fewer.report.format import ABSENT, grid, short, times

__all__ = ["NOTHING", "summary", "write_block"]

NOTHING = "Not measured yet, no row exists: run `make gpu` on a machine with a GPU.\n"

Row = Mapping[str, Any]


def write_block(section: str, path: Path) -> str:
    """Write the table of a section from the newest row of each case; dry runs do not count."""
    rows = read_results(path) if path.exists() else []
    newest = {row["case"]: row for row in rows if not row["dry_run"]}
    shown = [
        row
        for row in newest.values()
        if row["section"] == section and ("systems" in row or "passed" in row)
    ]
    if not shown:
        return f"\n{NOTHING}\n"
    return f"\n{TABLES[section](shown)}\n{_measured_on(shown)} Rows in `{path}`.\n\n"


def _measured_on(rows: Sequence[Row]) -> str:
    """Write the GPUs and versions."""
    gpus = sorted({f"{row['gpu']['name']}, driver {row['gpu']['driver']}" for row in rows})
    used = sorted({f"{name} {number}" for row in rows for name, number in row["versions"].items()})
    return f"Measured on {'; '.join(gpus)}, with {', '.join(used)}."


def summary(rows: Sequence[Row]) -> str:
    """Write the outcome of a run: laws, times, errors, what was left out."""
    lines = []
    for row in rows:
        cells = [_short_cell(name, system) for name, system in row.get("systems", {}).items()]
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
    if not _is_timed(system):
        parts = [f"{name} {system.get('wall_ms', system['busy_ms']):.3g} ms"]
        if "synchronisations" in system:
            parts.append(f"{system['synchronisations']} waits {system['idle_share']:.0%} idle")
        return " ".join(parts)
    bases = [base for base in ("padded", "sdpa-padded") if base in system["speedup"]]
    factor = system["speedup"][bases[0]] if bases else None
    if factor is None or name in bases:
        return f"{name} {(system['gpu_ms'] or system['wall_ms'])['median']:.3g} ms"
    return f"{name} {factor:.2f}x"


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
    """Write a line for each pass that was taken apart, and a table of the compiled models."""
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
    compiled = [row for row in rows if any(map(_is_timed, row["systems"].values()))]
    parts = [grid(lines, words=4)] if len(lines) > 1 else []
    return "\n".join([*parts, _compiled(compiled)] if compiled else parts)


def _compiled(rows: Sequence[Row]) -> str:
    lines = [("model", "lengths", "batch", "system", "ms", "against padded")]
    for row in rows:
        where = (row["model"], row["lengths"], str(row["batch"]))
        for name, system in row["systems"].items():
            if _is_timed(system):
                lines.append((*where, name, _ms(system["wall_ms"]), _speedup(system, "padded")))
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
