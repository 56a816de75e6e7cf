"""What a calibration promises, in numbers that are saved with the model."""

from __future__ import annotations

from dataclasses import asdict, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Strict

from fewer._validation.settings import build, settings
from fewer._validation.types import Count, Fraction, Natural, Number, Proportion
from fewer.hf.attach import attachment

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Certificate", "certificate_of"]

Numbers = Annotated[tuple[Number, ...], Strict(False)]


@settings
class Certificate:
    """With `confidence`, at most `max_disagreement` of answers differ from the full model's.

    That is about texts as those of the calibration: drawn alike, and independent of each other.
    """

    max_disagreement: Fraction
    confidence: Fraction
    conditional: bool  # whether among the texts that read less, not among all
    # the operating point, of a stack one number for each part; None: nothing could be certified
    point: Number | Numbers | None
    changed: Natural  # answers of the texts below that differ
    texts: Natural  # that were tested; with `conditional`, those that read less
    p_value: Proportion
    flops_share: Number  # of all tested texts
    shortest: Natural  # tokens of a text
    longest: Natural
    data: str  # hash of the tested texts
    date: str
    version: str
    precision: str
    # the points that were tested, in order
    tested: Annotated[tuple[Number | Numbers, ...], Strict(False)] = field(default=())
    counts: Literal["changed", "worse"] = "changed"  # all that differ, or right ones now wrong
    top_k: Count | None = field(default=None)  # of rankings: the best documents, in any order

    @property
    def promise(self) -> str:
        """The promise in words."""
        if self.point is None:
            return "nothing is certified: the model reads everything"
        texts = "texts" if self.top_k is None else "queries"
        among = f"of the {texts} that read less" if self.conditional else f"of all {texts}"
        happens = {
            "changed": "differ from the full model's",
            "worse": "become wrong that the full model has right",
        }[self.counts]
        answers = {None: "answers", 1: "first documents"}.get(
            self.top_k, f"best {self.top_k} documents"
        )
        return (
            f"with {self.confidence:.0%} confidence, at most {self.max_disagreement:.2%} of the "
            f"{answers} {among} {happens} ({self.changed} of {self.texts:,} did); "
            f"{self.flops_share:.1%} of its FLOPs"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def certificate_of(model: nn.Module) -> Certificate | None:
    """Return the certificate of an attached model; `None` if it has none, or has lost it.

    Setting another threshold, another method or training loses it.
    """
    content = attachment(model).settings.certificate
    return None if content is None else build(Certificate, content, "certificate")
