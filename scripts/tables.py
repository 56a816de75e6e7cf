"""Write the tables of README and docs from the result rows; `--check` only says whether they are.

A block begins with `<!-- results:NAME -->` and ends with `<!-- end results -->`; NAME says which
rows of benchmarks/results/ it shows.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from fewer.measure.cells import times
from fewer.measure.report import markdown
from fewer.measure.rows import read_results

RESULTS = Path("benchmarks/results")
SHOWN = {
    "imdb": ["imdb-ltp"],
    "sst2": ["sst2-ltp"],
    "latency": ["latency"],
    "training": ["training"],
    "precision": ["precision"],
    "readme": ["imdb-ltp", "sst2-ltp"],
}
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- end results -->)", re.DOTALL)


def filled(text: str) -> str:
    """Fill every block of a page; the newest row counts where a run was measured again."""
    return BLOCK.sub(lambda block: f"{block[1]}{_table(block[2])}{block[3]}", text)


def _table(name: str) -> str:
    files = [RESULTS / f"{stem}.jsonl" for stem in SHOWN[name]]
    newest = {}
    for row in (row for file in files if file.exists() for row in read_results(file)):
        run = row["model"], row["data"]["hash"], row["max_length"], row["kind"]
        newest[(*run, row.get("dropout"), row.get("batch_size"))] = row
    if not newest:
        return "\nNot measured yet: run `make bench`.\n\n"
    shown = {"readme": _summary, "training": _training, "precision": _precision}.get(name, markdown)
    precision = "" if name == "training" else ", fp32"
    processors = sorted({str(row["processor"]) for row in newest.values()})
    note = f"Measured on {'; '.join(processors)}, one thread{precision}; rows in `{RESULTS}`.\n"
    return f"\n{shown(list(newest.values()))}\n{note}\n"


def _summary(rows: list[dict[str, Any]]) -> str:
    """Write a line a data set: what a method changes, for the README."""
    heads = ("data", "tokens", "accuracy, dense", "with LTP", "FLOPs", "batch 32", "against padded")
    lines = [heads, ("---",) + ("---:",) * (len(heads) - 1)]
    for row in rows:
        padded, packed, method = (row["systems"][name] for name in ("padded", "packed", "method"))
        faster = method["latency_ms"]["32"]["speedup"]  # against packed, turn by turn
        than_padded = faster / padded["latency_ms"]["32"]["speedup"]
        data = Path(row["data"]["source"])
        lines.append(
            (
                f"{data.parent.name} {data.name.split('.')[0]}, {row['data']['rows']:,} texts",
                f"at most {row['max_length']}",
                f"{packed['metrics']['accuracy']:.4f}",
                f"{method['metrics']['accuracy']:.4f}",
                times(packed["flops_per_text"] / method["flops_per_text"], "fewer", "more"),
                times(faster, "faster", "slower"),
                times(than_padded, "faster", "slower"),
            )
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{table}\n\nFLOPs and batch 32 against the dense model packed; the last column, padded.\n"
    )


def _training(rows: list[dict[str, Any]]) -> str:
    """Write a line a data set, dropout and precision: real tokens a second of the processor."""
    names = ("trainer", "packed", "soft", "hard")
    heads = (
        "data",
        "batch",
        "dropout",
        "precision",
        "HF Trainer",
        "packed",
        "LTP soft",
        "LTP hard",
    )
    lines = [heads, ("---",) + ("---:",) * (len(heads) - 1)]
    for row in rows:
        data = Path(row["data"]["source"]).parent.name
        for precision in ("fp32", "bf16"):
            found = [row["systems"][f"{name} {precision}"] for name in names]
            cells = [f"{system['tokens_per_cpu_s']:,.0f}" for system in found]
            cells[1:] = [
                f"{cell} ({times(system['cpu_speedup'], 'faster', 'slower', 'as fast')})"
                for cell, system in zip(cells[1:], found[1:], strict=True)
            ]
            where = f"{data}, at most {row['max_length']} tokens"
            lines.append((where, row["batch_size"], row["dropout"], precision, *cells))
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def _precision(rows: list[dict[str, Any]]) -> str:
    """Write a line a run: the score of a dense model by the precision it was trained in."""
    lines = ["| run | accuracy | f1 | matthews |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        metrics = row["systems"]["packed"]["metrics"]
        scores = [f"{metrics[name]:.4f}" for name in ("accuracy", "f1", "matthews")]
        lines.append(f"| `{Path(row['model']).parent.name}` | {' | '.join(scores)} |")
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    """Fill all pages, or with `check` return 1 and name those that are out of date."""
    stale = []
    for page in [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if (wanted := filled(text)) != text:
            stale.append(str(page))
            if not check:
                page.write_text(wanted, encoding="utf-8")
    if check and stale:
        print(f"tables out of date in {', '.join(stale)}: run python scripts/tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
