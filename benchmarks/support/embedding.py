"""The tables of embedding and scoring pairs, beside sentence-transformers and other runtimes."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid

__all__ = ["embedding_table"]


def embedding_table(row: dict[str, Any], path: str) -> str:
    """Write a table for each, the fastest first."""
    lengths, peers = row["lengths"], row["peers"]
    versions = ", ".join(f"{name} {version}" for name, version in peers.items())
    return "\n\n".join(
        (
            f"Embedding {row['texts']} texts (mean {lengths['mean']:.0f} tokens, longest "
            f"{lengths['max']}):",
            _table(row["embedding"]),
            f"Scoring {row['pairs']} pairs of a question and a paragraph by a `CrossEncoder`:",
            _table(row["ranking"]),
            f"{row['processor']}, {row['threads']} thread, batches of {row['batch']}; CPU seconds, "
            f"median of {row['rounds']} rounds in turn; speed over sentence-transformers in fp32; "
            "difference: the largest from it, of a number of a unit vector, or of a score. "
            f"{versions}. Rows in `{path}`.",
        )
    )


def _table(systems: dict[str, Any]) -> str:
    ordered = sorted(systems.items(), key=lambda entry: -entry[1]["speed"])
    lines = [
        (name, f"{one['cpu_s']:.2f}", f"{one['speed']:.2f}x", f"{one['difference']:.1e}")
        for name, one in ordered
    ]
    return grid([("system", "CPU s", "speed", "difference"), *lines], words=1)
