"""The blocks of the page of claims: one list of verdicts, and a section for each chapter."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.__main__ import benchmarks
from benchmarks.claims.attention import ATTENTION
from benchmarks.claims.block_skim import BLOCK_SKIM
from benchmarks.claims.claim import MOST_CASES, Check, Claim, Results, Verdict
from benchmarks.claims.ltp import LTP
from benchmarks.claims.magic_pyramid import MAGIC_PYRAMID
from benchmarks.claims.motivation import MOTIVATION
from benchmarks.claims.recap import RECAP
from fewer.report.format import grid

__all__ = ["CHAPTERS", "COMMANDS", "write_chapter"]

CHAPTERS: dict[str, Sequence[Claim]] = {
    "motivation": MOTIVATION,
    "block_skim": BLOCK_SKIM,
    "ltp": LTP,
    "magic_pyramid": MAGIC_PYRAMID,
    "attention": ATTENTION,
    "recap": RECAP,
}
# the benchmark that writes a file of rows, where their names differ
COMMANDS = {
    "imdb-ltp": "imdb",
    "sst2-ltp": "sst2",
    "exits-latency": "exits",
    "passages": "squad",
}
SUMMARY, DOCS = "summary", Path("docs")


def write_chapter(name: str, folder: Path) -> str:
    """Write the claims of a chapter; `summary` lists the verdicts on all."""
    results = Results(folder)
    if name == SUMMARY:
        return f"\n{_write_summary(results)}\n"
    return "\n" + "\n".join(_write_claim(claim, results) for claim in CHAPTERS[name]) + "\n"


def _write_summary(results: Results) -> str:
    claims = [claim for chapter in CHAPTERS.values() for claim in chapter]
    verdicts = {claim.key: claim.verdict(results) for claim in claims}
    counts = Counter(verdicts.values())
    lines = [["claim or question", "slide", "verdict"]]
    lines += [
        [f"[{claim.title}](#{claim.key})", claim.slide, verdicts[claim.key].value]
        for claim in claims
    ]
    total = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    return f"{len(claims)} claims and questions: {total}.\n\n{grid(lines, words=3)}"


def _write_claim(claim: Claim, results: Results) -> str:
    verdict = claim.verdict(results).value
    lines = [f"- **The talk** (*{claim.slide}*): {claim.says}"]
    if claim.published:
        lines.append(f"- **Published**: {claim.published}")
    written = [_write_check(check, results) for check in claim.checks]
    if any(written):
        lines += [f"- **Measured**: {text}" for text in written if text]
    else:
        wanted = "; ".join(check.quantity for check in claim.checks)
        lines.append(f"- **Measured**: no rows yet. Wanted: {wanted}.")
    if claim.note:
        lines.append(f"- **Note**: {claim.note}")
    lines.append(f"- **Command**: {_write_commands(claim, results)}.")
    drawn = "".join(map(_show_figure, claim.figures))
    heading = f"### {claim.title} {{ #{claim.key} }}"
    folded = "".join(_write_all(check, results) for check in claim.checks)
    body = "\n".join(lines)
    return f"{heading}\n\n**Verdict: {verdict}.**\n\n{body}\n{folded}{drawn}"


def _write_check(check: Check, results: Results) -> str:
    cases = check.measure(results)
    return f"{check.write(cases)}." if cases else ""


def _write_all(check: Check, results: Results) -> str:
    """Write all cases of a check, folded, where they are too many for a line."""
    cases = check.measure(results)
    if len(cases) <= MOST_CASES:
        return ""
    summary = f"<summary>All cases: {check.quantity}</summary>"
    return f"\n<details markdown>\n{summary}\n\n{check.write_table(cases)}\n</details>\n"


def _write_commands(claim: Claim, results: Results) -> str:
    """Write the benchmarks that give a claim its rows; say so where none is written yet."""
    names = dict.fromkeys(_command(stem) for stem in claim.stems)
    known = [name for name in names if name in benchmarks()]
    if not known:
        return "none yet; the study is not written"
    commands = ", ".join(f"`python -m benchmarks {name}`" for name in known)
    return f"{commands}; rows in {_write_files(claim, results)}"


def _write_files(claim: Claim, results: Results) -> str:
    return ", ".join(f"`{results.path(stem)}`" for stem in claim.stems)


def _command(stem: str) -> str:
    return COMMANDS.get(stem, stem)


def _show_figure(name: str) -> str:
    """Show a figure of `docs/` that was drawn, with all its numbers as alternative text."""
    path = DOCS / name
    label = re.search(r'aria-label="([^"]*)"', path.read_text()) if path.exists() else None
    if label is None:
        return ""
    text = html.unescape(label[1]).translate(str.maketrans("[]", "()"))
    return f"\n![{text}]({name})\n"
