"""The tables of embedding and scoring pairs, beside sentence-transformers and other runtimes."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid

__all__ = ["embedding_memory_table", "embedding_pruning_table", "embedding_table"]


def embedding_table(row: dict[str, Any], path: str) -> str:
    """Write a table for each, the fastest first."""
    lengths, peers = row["lengths"], row["peers"]
    versions = ", ".join(f"{name} {version}" for name, version in peers.items())
    missing = f" Missing: {', '.join(row['missing'])}." if row["missing"] else ""
    return "\n\n".join(
        (
            f"{row['model']}, embedding {row['texts']:,} texts (mean {lengths['mean']:.0f} tokens, "
            f"longest {lengths['max']}):",
            _table(row["embedding"]),
            f"Scoring {row['pairs']} pairs of a question and a paragraph by a `CrossEncoder`:",
            _table(row["ranking"]),
            f"{row['processor']}, {row['threads']} thread, batches of {row['batch']}; CPU seconds; "
            f"speed over sentence-transformers in fp32, the median over {row['parts']} parts of "
            "the texts, on each of which all run in turn; difference: the largest from it, of a "
            f"number of a unit vector, or of a score. {versions}.{missing} Rows in `{path}`.",
        )
    )


def _table(systems: dict[str, Any]) -> str:
    ordered = sorted(systems.items(), key=lambda entry: -entry[1]["speed"])
    lines = [
        (name, f"{one['cpu_s']:.2f}", f"{one['speed']:.2f}x", f"{one['difference']:.1e}")
        for name, one in ordered
    ]
    return grid([("system", "CPU s", "speed", "difference"), *lines], words=1)


def embedding_memory_table(row: dict[str, Any], path: str) -> str:
    """Write the growth of memory of each system by the number of texts."""
    systems = row["memory_mb"]
    counts = list(next(iter(systems.values())))
    lines = [
        (name, *(f"{growth[count]:,.0f}" for count in counts)) for name, growth in systems.items()
    ]
    header = ("MB, beyond the loaded model", *(f"{int(count):,} texts" for count in counts))
    return (
        f"{grid([header, *lines], words=1)}\n{row['model']}, texts of {row['tokens']} tokens, the "
        f"process at its peak, {row['threads']} thread of {row['processor']}. Row in `{path}`."
    )


def embedding_pruning_table(row: dict[str, Any], path: str) -> str:
    """Write a table for each model: a line for each target and way in which pruned tokens end."""
    tables = [
        f"{one['model']}, dense nDCG@10 {_by_precision(one['ndcgs'])}; "
        f"{one['questions']:,} questions, "
        f"{one['paragraphs']:,} paragraphs of {one['mean_length']:.0f} tokens on average:\n\n"
        f"{_pruning_table(one['points'])}"
        for one in row["models"]
    ]
    note = (
        f"Fitted to {row['fitted']} paragraphs; each against the same model packed, in the same "
        f"precision; {row['threads']} thread of {row['processor']}. Row in `{path}`."
    )
    return "\n\n".join((*tables, note))


def _by_precision(numbers: dict[str, float]) -> str:
    return ", ".join(f"{number:.4f} in {precision}" for precision, number in numbers.items())


def _pruning_table(points: list[dict[str, Any]]) -> str:
    precisions = sorted(points[0]["differences"])
    header = ["target", "pruned tokens end at", "FLOPs"]
    for precision in precisions:
        header += [f"points of nDCG@10, {precision}", "speed"]
    lines = []
    for point in points:
        line = [f"{point['target']:g}", point["ends"], f"{1 / point['flops_share']:.2f}x fewer"]
        for precision in precisions:
            difference, speeds = point["differences"].get(precision), point["speed"]
            line.append(
                "-" if difference is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference)
            )
            line.append(f"{speeds[precision]:.2f}x" if speeds else "-")
        lines.append(line)
    return grid([header, *lines], words=2)
