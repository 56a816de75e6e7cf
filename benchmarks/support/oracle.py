"""What predictors of relevant blocks can save at most, as a table."""

from __future__ import annotations

from typing import Any

__all__ = ["oracle_table"]


def oracle_table(row: dict[str, Any], path: str) -> str:
    """Write how many times fewer FLOPs each setting takes, by the layer after which it knows."""
    known = row["known"]
    heads = [f"after layer {layer}" if layer else "before layer 1" for layer in known]
    lines = [
        f"| layers | block | {' | '.join(heads)} |",
        f"| ---: | ---: |{' ---: |' * len(known)}",
    ]
    for layers, blocks in row["flops_share"].items():
        for block, shares in blocks.items():
            cells = " | ".join(f"{1 / share:.2f}x" for share in shares)
            lines.append(f"| {layers} | {block} | {cells} |")
    data, table, padded = row["data"], "\n".join(lines), row["padded_over_packed"]
    return (
        f"{table}\n\n{data['rows']:,} questions of `{data['source']}` in {row['windows']:,} "
        f"windows of at most {row['max_length']} tokens, sizes of `{row['model']}`. BERT-base with "
        f"every window padded to {padded['length']} tokens takes {padded['ratio']:.2f}x the FLOPs "
        f"of the same windows packed. Row in `{path}`."
    )
