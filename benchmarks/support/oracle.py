"""What predictors of relevant blocks can save at most, as a table."""

from __future__ import annotations

from typing import Any

from fewer.report.format import grid

__all__ = ["oracle_table"]


def oracle_table(row: dict[str, Any], path: str) -> str:
    """Write how many times fewer FLOPs each setting takes, by the layer after which it knows."""
    heads = [f"after layer {layer}" if layer else "before layer 1" for layer in row["known"]]
    lines = [
        [layers, block, *(f"{1 / share:.2f}x" for share in shares)]
        for layers, blocks in row["flops_share"].items()
        for block, shares in blocks.items()
    ]
    table = grid([["layers", "block", *heads], *lines], words=0)
    data, padded = row["data"], row["padded_over_packed"]
    return (
        f"{table}\n{data['rows']:,} questions of `{data['source']}` in {row['windows']:,} "
        f"windows of at most {row['max_length']} tokens, sizes of `{row['model']}`. BERT-base with "
        f"every window padded to {padded['length']} tokens takes {padded['ratio']:.2f}x the FLOPs "
        f"of the same windows packed. Row in `{path}`."
    )
