"""The table of GLiNER: its encoder, and all of it, on four profiles of lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewer.report.format import grid

__all__ = ["PROFILES", "draw_lengths", "gliner_table"]

PROFILES = {
    "short_uniform": "short",
    "short_zipf": "short, with a tail",
    "mixed_tail": "short, and one long",
    "flat_long": "all long",
}


def draw_lengths(profile: str, texts: int) -> list[int]:
    """Draw the lengths of a profile as `bench_infer_packing.py` in GLiNER's repository does."""
    if profile == "short_uniform":
        return np.random.default_rng(1337).integers(8, 65, size=texts).tolist()
    if profile == "short_zipf":
        lengths = np.random.default_rng(2024).zipf(1.2, size=texts)
        return np.clip(lengths, 8, 128).astype(int).tolist()
    if profile == "mixed_tail":
        return [256, *np.random.default_rng(314).integers(8, 49, size=texts - 1).tolist()]
    return [256] * texts


def gliner_table(row: dict[str, Any], path: str) -> str:
    """Write the speed of each system over the padded model, for the encoder and for all of it."""
    parts = row["profiles"]["flat_long"]["cpu_s"]
    names = [name for name in next(iter(parts.values())) if name != "padded"]
    lines = [("measured", "lengths", "not padding", "padded, s", *names)]
    for part in parts:
        for profile, measured in row["profiles"].items():
            lengths, seconds = measured["lengths"], measured["cpu_s"][part]
            share = sum(lengths) / len(lengths) / max(lengths)
            speeds = [f"{measured['speed'][part][name]:.2f}x" for name in names]
            padded = f"{seconds['padded']:.1f}"
            lines.append((part, PROFILES[profile], f"{100 * share:.0f} %", padded, *speeds))
    difference = max(
        value
        for measured in row["profiles"].values()
        for name, value in measured["difference"].items()
        if "bf16" not in name
    )
    note = (
        f"{row['texts']} texts; CPU seconds, median of {row['rounds']} rounds in turn, "
        f"{row['threads']} thread of {row['processor']}; speed over the padded model. Logits in "
        f"fp32 are within {difference:.0e} of the padded model's. gliner {row['gliner']}, "
        f"transformers {row['versions']['transformers']}. Row in `{path}`."
    )
    return f"{grid(lines, words=2)}\n\n{note}"
