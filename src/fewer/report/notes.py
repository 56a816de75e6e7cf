"""Notes of a result row: FLOPs against their target, exits without a threshold."""

from __future__ import annotations

from collections.abc import Iterable

from fewer.inference.predict import CLOSED
from fewer.report.html import visible
from fewer.report.settings import Row

__all__ = ["certificate_line", "flops_line", "notes"]

TOLERANCE = 0.01  # a share this close to its target needs no explanation
RARE = 0.01  # share of texts of other lengths that is no drift yet
DRIFT = 0.05  # distance of shares of the FLOPs that is one


def notes(rows: Iterable[Row]) -> list[str]:
    """Return the distinct lines to print under the table of these rows."""
    lines = [
        line
        for row in rows
        for line in (
            flops_line(row),
            _difference_line(row),
            certificate_line(row),
            _drift_note(row),
            _closed_note(row),
            _queries_note(row),
            *_remarks(row),
        )
    ]
    return list(dict.fromkeys(visible(line) for line in lines if line))


def flops_line(row: Row) -> str | None:
    """Compare the measured share of FLOPs with the target.

    `None` for a method without a target, and for a measurement at another threshold.
    """
    target = row.get("method", {}).get("args", {}).get("target")
    flops = [row["systems"].get(name, {}).get("flops_per_text") for name in ("method", "packed")]
    if target is None or row.get("threshold") is not None or not all(flops):
        return None
    share = flops[0] / flops[1]
    source = row.get("data", {}).get("source", "the data")
    line = f"FLOPs: {share:.2f} of the dense model's on {source}, target {target:.2f}"
    if abs(share - target) <= TOLERANCE:
        return line
    return f"{line} (calibrated on a sample of the texts that it was fitted to)"


def _difference_line(row: Row) -> str | None:
    """Write how far the method's score is from the dense model's, and how sure that is."""
    method = row["systems"].get("method", {})
    if (difference := method.get("difference")) is None:
        return None
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    metric = next(iter(method["metrics"]))
    return (
        f"{metric}: {mean:+.4f} against packed, 95 % interval {low:+.4f} to {high:+.4f} "
        "(paired bootstrap over texts)"
    )


def certificate_line(row: Row) -> str | None:
    """Compare the answers that changed here with what the model's certificate promises.

    `None` for a model without one, one about the texts that read less or about right answers,
    and another threshold.
    """
    from scipy.stats import binom

    certificate, method = row.get("certificate"), row["systems"].get("method", {})
    data = row["data"]
    changed, texts = method.get("changed"), data.get("queries", data["rows"])
    if certificate is None or changed is None or row.get("threshold") is not None:
        return None
    if certificate["conditional"] or certificate["point"] is None:
        return None
    if certificate.get("top_k") != row.get("top_k"):  # about more of the best documents, or fewer
        return None
    if certificate.get("counts") == "worse":  # a promise about labels, which a row has no count of
        return None
    risk = certificate["max_disagreement"]
    chance = float(binom.sf(round(changed * texts) - 1, texts, risk))
    verdict = "as promised"
    if changed > risk:
        verdict = "more, but within chance" if chance > 0.05 else "broken: these texts are others"
    return (
        f"certificate: at most {risk:.2%} of the answers differ from the full model's; here "
        f"{changed:.2%} of {texts:,} texts do ({verdict})"
    )


def _drift_note(row: Row) -> str | None:
    """Say in what these texts are unlike those that a certificate is about."""
    certificate, lengths = row.get("certificate"), row.get("lengths")
    if certificate is None or certificate["point"] is None or row.get("threshold") is not None:
        return None
    signs = []
    if lengths is not None and "shortest" in certificate:
        shortest, longest = certificate["shortest"], certificate["longest"]
        bins = zip(lengths["edges"], lengths["edges"][1:], lengths["counts"], strict=False)
        outside = sum(count for low, high, count in bins if low > longest or high <= shortest)
        if outside > RARE * sum(lengths["counts"]):
            signs.append(f"{outside:,} texts are not of {shortest} to {longest} tokens")
    flops = [row["systems"].get(name, {}).get("flops_per_text") for name in ("method", "packed")]
    if all(flops) and "flops_share" in certificate:
        share, certified = flops[0] / flops[1], certificate["flops_share"]
        if abs(share - certified) > DRIFT:
            signs.append(f"{share:.0%} of the FLOPs are computed, not {certified:.0%}")
    if not signs:
        return None
    return f"drift: {' and '.join(signs)}: calibrate again on texts like these"


def _closed_note(row: Row) -> str | None:
    """Explain that no text exits, where neither training nor the user set the threshold."""
    unset = "saved_threshold" in row and row["saved_threshold"] is None
    return CLOSED if unset and row.get("threshold") is None else None


def _queries_note(row: Row) -> str | None:
    """Explain what a text of the table is, where the documents of a query belong together."""
    queries = row.get("data", {}).get("queries")
    if row.get("embedding") is not None:
        text = "a pair" if queries is None else f"one of {queries:,} queries with its documents"
        return f"a text is {text}; batches are of single texts"
    if queries is None:
        return None
    return f"a text is a query with its documents: {queries:,} of {row['data']['rows']:,} rows"


def _remarks(row: Row) -> list[str]:
    """Collect the remarks on constant predictions; those of padded equal those of packed."""
    systems = {name: row["systems"].get(name, {}) for name in ("packed", "method")}
    return [
        f"{name}: {system['remark']}" for name, system in systems.items() if system.get("remark")
    ]
