"""The tables of embedding and scoring pairs, beside sentence-transformers and other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewer.report.format import grid

__all__ = ["embedding_table"]


def embedding_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write a table for each, the fastest first."""
    parts = []
    for row in rows:
        lengths, peers = row["lengths"], row["peers"]
        versions = ", ".join(f"{name} {version}" for name, version in peers.items())
        parts += [
            f"Embedding {row['texts']} texts (mean {lengths['mean']:.0f} tokens, longest "
            f"{lengths['max']}):",
            _table(row["embedding"]),
            f"Scoring {row['pairs']} pairs of a question and a paragraph by a `CrossEncoder`:",
            _table(row["ranking"]),
            f"{row['processor']}, {row['threads']} thread, batches of {row['batch']}; CPU seconds, "
            f"median of {row['rounds']} rounds in turn; speed over the first line of "
            f"sentence-transformers; the largest difference of a number of a unit vector, or of a "
            f"score, from it. {versions}.",
        ]
    return "\n\n".join(parts)


def _table(systems: dict[str, Any]) -> str:
    ordered = sorted(systems.items(), key=lambda entry: -entry[1]["speed"])
    lines = [
        (name, f"{one['cpu_s']:.2f}", f"{one['speed']:.2f}x", f"{one['difference']:.1e}")
        for name, one in ordered
    ]
    return grid([("system", "CPU s", "speed", "difference"), *lines], words=1)
