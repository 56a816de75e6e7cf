"""Write tables and figures of README and docs from the result rows; `--check` only compares.

A block begins with `<!-- results:NAME -->` and ends with `<!-- end results -->`; NAME names
the rows of benchmarks/results/ that it shows.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.claims.page import write_chapter
from benchmarks.gpu.tables import write_block
from benchmarks.support.certificate import (
    calibration_line,
    certificate_table,
    certified_table,
    probe_exit_table,
)
from benchmarks.support.compare import compare_block, comparison_figures, newest_comparisons
from benchmarks.support.figures import claim_figures
from benchmarks.support.findings import findings
from benchmarks.support.int8 import int8_scores_table
from benchmarks.support.lengths import (
    lengths_table,
    long_texts_figure,
    long_texts_table,
    patterns_claim,
)
from benchmarks.support.own_tables import OWN_TABLES
from benchmarks.support.peers import PEER_BLOCKS, describe_figure, peer_figures
from benchmarks.support.questions import (
    kept_table,
    predictors_table,
    questions_table,
)
from benchmarks.support.readme import claim, gains_table
from benchmarks.support.scored import with_score
from benchmarks.support.training_free import training_free_table
from fewer.measure.rows import read_results
from fewer.report.format import times
from fewer.report.operating_points import (
    MOST_LOST,
    buckets_table,
    curve_table,
    data_set,
    exits_table,
    tagging_table,
)
from fewer.report.report import markdown
from fewer.report.svg import Drawing
from fewer.runtimes.figure import write_svg
from fewer_lra.bubbles import draw_figure
from fewer_lra.tables import costs as arena_costs
from fewer_lra.tables import group_rows
from fewer_lra.tables import markdown as arena_scores

RESULTS = Path("benchmarks/results")
SHOWN = {
    "imdb": ["imdb-ltp"],
    "imdb_512": ["imdb-512-ltp"],
    "sst2": ["sst2-ltp"],
    "latency": ["latency"],
    "squad_latency": ["squad-latency"],
    "exits_latency": ["exits-latency", "tagging-latency"],
    "training": ["training"],
    "precision": ["precision"],
    "readme": ["imdb-ltp", "sst2-ltp"],
    "claim": ["imdb-ltp"],
    "training_free": ["training-free"],
    "certificate": ["certificate"],
    "probe_exit": ["certificate"],
    "certified": ["certificate"],
    "calibration": ["calibration"],
}
# where the scores of timed runs are
SCORED = {
    "latency": ["imdb-ltp"],
    "squad_latency": ["squad"],
    "exits_latency": ["exits", "tagging"],
}
PEERS = RESULTS / "peers.jsonl"
ARENA, AXES = Path("docs/lra.svg"), Path("docs/long-texts.svg")
NOTHING = "Not measured yet: run `make bench`.\n"
Rows = list[dict[str, Any]]
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- end results -->)", re.DOTALL)


def filled(text: str) -> str:
    """Fill every block of a page; the newest row counts where a run was measured again."""
    return BLOCK.sub(lambda block: f"{block[1]}{_block(block[2])}{block[3]}", text)


def _block(name: str) -> str:
    if name in PEER_BLOCKS:
        return f"\n{PEER_BLOCKS[name](PEERS) or NOTHING}\n"
    if name == "score":
        return _score()
    if name in OWN_TABLES:
        path = RESULTS / f"{name}.jsonl"
        rows = read_results(path) if path.exists() else []
        return f"\n{OWN_TABLES[name](rows[-1], str(path)) if rows else NOTHING}\n\n"
    if name == "patterns":
        path = RESULTS / "lengths.jsonl"
        return f"\n{patterns_claim(read_results(path)) if path.exists() else NOTHING}\n"
    if name == "lra":
        return _arena()
    if (section := name.removeprefix("gpu_")) != name:
        return write_block(section, RESULTS / "gpu.jsonl")
    if (chapter := name.removeprefix("claims_")) != name:
        return write_chapter(chapter, RESULTS)
    if (comparison := name.removeprefix("compare_")) != name:
        return compare_block(newest_comparisons(RESULTS).get(comparison)) or f"\n{NOTHING}\n"
    if name in SWEPT:
        return _swept(name)
    if name in ASKED:
        return _asked(name)
    return _table(name)


def _swept(name: str) -> str:
    """Write a table of rows with a sweep; the newest row per data, method and model counts."""
    written, stems, note = SWEPT[name]
    files = [RESULTS / f"{stem}.jsonl" for stem in stems]
    newest = {}
    for row in (row for file in files if file.exists() for row in read_results(file)):
        if row.get("sweep"):
            newest[row["data"]["hash"], row["method"]["name"], row["model"]] = row
    if not newest:
        return f"\n{NOTHING}\n"
    where = ", ".join(f"`{file}`" for file in files if file.exists())
    return f"\n{written(list(newest.values()))}\n{note} Rows in {where}.\n\n"


def _arena() -> str:
    """Write the tables of Long Range Arena, speed and memory, and show the figure."""
    path = RESULTS / "lra.jsonl"
    if not path.exists():
        return f"\n{NOTHING}\n"
    rows = read_results(path)
    drawn = _arena_figure()
    shown = "" if drawn is None else f"![{describe_figure(drawn)}]({ARENA.name})\n\n"
    processors = "; ".join(sorted({str(row["processor"]) for row in rows}))
    return (
        f"\n{shown}{arena_scores(rows)}\n{arena_costs(rows)}\n"
        f"Measured on {processors}; rows in `{path}`.\n\n"
    )


def _asked(name: str) -> str:
    """Write a table of questions; the newest row per run and data counts."""
    written, stems, note = ASKED[name]
    files = [RESULTS / f"{stem}.jsonl" for stem in stems]
    newest = {}
    for row in (row for file in files if file.exists() for row in read_results(file)):
        run = (row.get(key) for key in ("model", "mode", "precision"))
        newest[(row["data"]["hash"], *run)] = row
    if not newest:
        return f"\n{NOTHING}\n"
    where = ", ".join(f"`{file}`" for file in files)
    return f"\n{written(list(newest.values()))}\n{note} Rows in {where}.\n\n"


def _three_axes(rows: Rows) -> str:
    """Write the table and show its figure."""
    return f"![{describe_figure(long_texts_figure(rows))}]({AXES.name})\n\n{long_texts_table(rows)}"


def _joint_predictors(rows: Rows) -> str:
    """Write the quality of predictors trained with the model."""
    return predictors_table([row for row in rows if row.get("predictors")])


def _curves(rows: Rows) -> str:
    """Write the curve of each row under its name."""
    return "\n".join(
        f"**{data_set(row)}, {row['method']['name']}** (`{row['model']}`)\n\n{curve_table(row)}"
        for row in rows
    )


def figures() -> dict[Path, Drawing]:
    """Draw the figures of the pages, by the file that each belongs in."""
    drawn: dict[Path, Drawing | None] = {
        Path("docs") / name: figure for name, figure in peer_figures(PEERS).items()
    }
    drawn[ARENA] = _arena_figure()
    shown = "".join(page.read_text(encoding="utf-8") for page in _pages())
    for comparison, row in newest_comparisons(RESULTS).items():
        if f"results:compare_{comparison} " in shown:
            drawn |= comparison_figures(comparison, row)
    long = RESULTS / "long-texts.jsonl"
    drawn[AXES] = long_texts_figure(read_results(long)) if long.exists() else None
    drawn |= {Path("docs") / name: figure for name, figure in claim_figures(RESULTS).items()}
    return {path: figure for path, figure in drawn.items() if figure is not None}


def _arena_figure() -> Drawing | None:
    """Draw the small profile, trained from scratch, once an attention has run on all tasks."""
    path = RESULTS / "lra.jsonl"
    for group in group_rows(read_results(path)) if path.exists() else []:
        whole = any(group.average(attention) is not None for attention in group.attentions)
        if group.profile == "small" and not group.pretrained and whole:
            return draw_figure(group, "text" if "text" in group.tasks else group.tasks[0])
    return None


def _score() -> str:
    """Write the time that summing scores adds to attention, from the newest row."""
    path = RESULTS / "score.jsonl"
    if not path.exists():
        return f"\n{NOTHING}\n"
    row = read_results(path)[-1]
    lines = ["| attention | without the score | the score adds |", "| --- | ---: | ---: |"]
    for name, timing in row["found"].items():
        lines.append(f"| {name} | {timing['attention_ms']:.3f} ms | {timing['score']:.1%} |")
    table = "\n".join(lines)
    where = f"one thread of {row['processor']}; row in `{path}`"
    return f"\n{table}\n\nMedians of ratios, in turn, {where}.\n\n"


def _stale_figures(check: bool) -> list[str]:
    """Write each figure whose numbers are not those in its file; the lines may differ a little."""
    stale = []
    for path, drawn in figures().items():
        label = f'aria-label="{html.escape(describe_figure(drawn))}"'
        if path.exists() and label in path.read_text(encoding="utf-8"):
            continue
        stale.append(str(path))
        if not check:
            write_svg(drawn, path)
    return stale


def _table(name: str) -> str:
    """Write a table of the systems of each run; one of times has the scores of the same runs."""
    files = [RESULTS / f"{stem}.jsonl" for stem in SHOWN[name]]
    newest = {}
    for row in (row for file in files if file.exists() for row in read_results(file)):
        run = row["model"], row["data"]["hash"], row["max_length"], row["kind"]
        key = (*run, *(row.get(name) for name in ("dropout", "batch_size", "name")))
        newest.pop(key, None)  # so that the rows stay in the order in which they were measured
        newest[key] = row
    if not newest:
        return f"\n{NOTHING}\n"
    if name in SCORED:
        files = [RESULTS / f"{stem}.jsonl" for stem in SCORED[name]]
        scores = [row for file in files if file.exists() for row in read_results(file)]
        newest = {run: with_score(row, scores) for run, row in newest.items()}
    old = sorted({row["model"] for row in newest.values() if row.get("superseded")})
    newest = {run: row for run, row in newest.items() if row["model"] not in old}
    shown = WRITTEN.get(name, markdown)
    if name == "claim":
        return f"\n{claim(list(newest.values()))}\n"
    precision = "" if name == "training" else ", fp32"
    processors = sorted({str(row["processor"]) for row in newest.values()})
    counts_of_threads = sorted({row["threads"] for row in newest.values()})
    threads = "one thread" if counts_of_threads == [1] else f"{_listed(counts_of_threads)} threads"
    note = f"Measured on {'; '.join(processors)}, {threads}{precision}; rows in `{RESULTS}`.\n"
    if name in SCORED:
        counts = sorted({row["scored_rows"] for row in newest.values() if "scored_rows" in row})
        note += f"Scores: the same models at the same thresholds, on {_listed(counts)} rows.\n"
    if old:
        note += f"Left out, as trained again since and not timed again: {', '.join(old)}.\n"
    return f"\n{shown(list(newest.values()))}\n{note}\n"


def _listed(counts: list[int]) -> str:
    return " or ".join(f"{count:,}" for count in counts)


def _training(rows: list[dict[str, Any]]) -> str:
    """Write one line per data set, dropout and precision: real tokens per processor second."""
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
    """Write one line per run: the score of a dense model by its training precision."""
    lines = ["| run | accuracy | f1 | matthews |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        metrics = row["systems"]["packed"]["metrics"]
        scores = [f"{metrics[name]:.4f}" for name in ("accuracy", "f1", "matthews")]
        lines.append(f"| `{Path(row['model']).parent.name}` | {' | '.join(scores)} |")
    return "\n".join(lines) + "\n"


def _pages() -> list[Path]:
    return [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]


def main(check: bool) -> int:
    """Fill all pages, or with `check` return 1 and name those that are out of date."""
    stale = _stale_figures(check)
    for page in _pages():
        text = page.read_text(encoding="utf-8")
        if (wanted := filled(text)) != text:
            stale.append(str(page))
            if not check:
                page.write_text(wanted, encoding="utf-8")
    if check and stale:
        print(f"tables or figures out of date: {', '.join(stale)}: run python -m scripts.tables")
        return 1
    return 0


WRITTEN: dict[str, Callable[[Rows], str]] = {
    "readme": gains_table,
    "training": _training,
    "precision": _precision,
    "training_free": training_free_table,
    "certificate": certificate_table,
    "probe_exit": probe_exit_table,
    "certified": certified_table,
    "calibration": calibration_line,
}

_LOSES = (
    f"at equal F1: with the fewest FLOPs that lose at most {MOST_LOST:g} point, chosen on one half "
    "of the questions and reported on the other."
)
ASKED: dict[str, tuple[Callable[[Rows], str], list[str], str]] = {
    "int8_scores": (
        int8_scores_table,
        ["int8-scores"],
        "fp32: padded; here: packed, in this precision.",
    ),
    "squad": (questions_table, ["squad"], "FLOPs are against the dense model, packed."),
    "kept": (kept_table, ["passages"], "FLOPs and times are against the dense model, packed."),
    "skim_settings": (predictors_table, ["skim-settings"], f"FLOPs {_LOSES}"),
    "hops": (predictors_table, ["hops"], f"FLOPs {_LOSES}"),
    "joint_predictors": (_joint_predictors, ["squad"], ""),
    "lengths": (lengths_table, ["lengths"], ""),
    "long_texts": (_three_axes, ["long-texts"], "600 reviews; ratios are to full attention."),
}

_FLOPS = "FLOPs are against the dense model, packed, and count the exits' heads."
_CHOSEN = (
    f"The threshold is the one with the fewest FLOPs that loses at most {MOST_LOST:g} point, "
    "chosen on every other text; "
)
_REPORTED = (
    f"{_CHOSEN}scores, FLOPs and layers are those of the other half. "
    "Lost is the difference to the better of two dense models: the baseline (*dense*), and the "
    "method's own model without pruning or exits (*nobody leaves*), which was trained longer by "
    "the epochs in brackets. In the last column the threshold was chosen on the texts shown, "
    f"which biases the score upwards. {_FLOPS} Length and layers: Spearman's rank correlation over "
    "all texts."
)
SWEPT: dict[str, tuple[Callable[[Rows], str], list[str], str]] = {
    "exits": (exits_table, ["exits"], _REPORTED),
    "tagging": (tagging_table, ["tagging"], _REPORTED),
    "findings": (findings, ["exits"], ""),
    "joint": (exits_table, ["joint"], _REPORTED),
    "buckets": (
        buckets_table,
        ["exits"],
        f"{_CHOSEN}shown are all texts of each length, those that chose among them. {_FLOPS}",
    ),
    "skim_curve": (_curves, ["squad"], _FLOPS),
    "curves": (_curves, ["exits", "tagging"], _FLOPS),
}


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
