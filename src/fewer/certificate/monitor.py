"""Watch a promise in use: a test that may be looked at after every text.

Now and then a text is read twice, as certified and in full, and the monitor is told whether the
answers differ. It says when the promise is broken. The test is valid at any time (an e-process:
Ramdas et al., 2023, https://arxiv.org/abs/2210.01948): where the promise holds, the chance that it
ever says so is at most 1 - confidence, however often it is looked at.

Of n texts, k answers differ. Against a share r of answers that was promised, the evidence is

    e = integral over p > r of  (p / r)^k ((1 - p) / (1 - r))^(n - k)  w(p) dp,

w the density of Beta(1, 1 / r) above r: a bet on shares just above the promised one as well as on
large ones. For each p > r the ratio is a supermartingale while the true share is r or less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewer._validation.settings import validate
from fewer._validation.types import Fraction
from fewer.certificate.bench import encode_bench, points_of
from fewer.certificate.certificate import certificate_of
from fewer.hf.attach import attachment, parts
from fewer.hf.optimize import run_by

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Monitor", "evidence_of"]


@dataclass(frozen=True)
class Monitor:
    """What texts in use have shown of a promise so far. Frozen: each count makes a new one.

    >>> monitor = Monitor.of(model)  # doctest: +SKIP
    >>> monitor = monitor.read(model, tokenizer, a_few_texts)  # doctest: +SKIP
    >>> monitor.is_broken  # doctest: +SKIP
    """

    risk: float  # the share of answers that may differ
    confidence: float
    conditional: bool = False  # whether among the texts that read less
    texts: int = 0  # that count so far
    changed: int = 0  # of these, answers that differ
    most_evidence: float = 1.0  # after any text so far

    def __post_init__(self) -> None:
        """Refuse a risk or a confidence outside (0, 1), and impossible counts."""
        validate(Fraction, self.risk, "risk")
        validate(Fraction, self.confidence, "confidence")
        if not 0 <= self.changed <= self.texts:
            raise ValueError(f"changed must be from 0 to texts, {self.texts}; got {self.changed}.")

    @classmethod
    def of(cls, model: PreTrainedModel) -> Monitor:
        """Watch the promise of a model's certificate. Raises `ValueError` without one."""
        certificate = certificate_of(model)
        if certificate is None or certificate.point is None:
            raise ValueError(
                "model must have a certificate that promises something; got "
                f"{'none' if certificate is None else 'one of nothing'}. See fewer.calibrate."
            )
        if certificate.counts == "worse":
            raise ValueError(
                "the certificate must count changed answers to be watched without labels; got one "
                "of answers that become wrong. Make a Monitor and `add` what labels tell."
            )
        return cls(certificate.max_disagreement, certificate.confidence, certificate.conditional)

    def add(self, differs: Iterable[bool]) -> Monitor:
        """Count texts, in the order in which they were read: whether each answer differs."""
        texts, changed, evidence = self.texts, self.changed, self.most_evidence
        for text in differs:
            texts += 1
            if text:  # without a difference the evidence falls
                changed += 1
                evidence = max(evidence, evidence_of(changed, texts, self.risk))
        return replace(self, texts=texts, changed=changed, most_evidence=evidence)

    def read(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Iterable[Any],
        *,
        text_pairs: Iterable[Any] | None = None,
        max_length: int | None = None,
    ) -> Monitor:
        """Read texts as certified and in full, and count them.

        Draw them from those in use at random. In full is without a precision that was certified
        too. The model is left as it was.
        """
        certificate = certificate_of(model)
        top_k = None if certificate is None else certificate.top_k
        bench = encode_bench(model, tokenizer, texts, text_pairs, max_length, top_k=top_k)
        points, isa = points_of(model), attachment(model).isa
        point = points.present
        run = bench.time_at(points, point)
        lowered = isa is not None and isa.dtype is not parts(model)[1].dtype
        try:
            if lowered:
                run_by(model, None)
            full = bench.time_at(points, points.never)
        finally:
            points.restore(point)
            if lowered:
                run_by(model, isa)
        differs = bench.differs(run, full)
        counted = differs[run.flops < full.flops] if self.conditional else differs
        return self.add(counted.tolist())

    @property
    def p_value(self) -> float:
        """The p-value of "the promise holds", valid at any time."""
        return 1 / self.most_evidence

    @property
    def is_broken(self) -> bool:
        """Whether the promise is broken, with the confidence of the certificate."""
        return self.p_value <= 1 - self.confidence

    def __str__(self) -> str:
        """Say what was seen, and what follows."""
        verdict = "broken" if self.is_broken else "not refuted"
        return (
            f"{self.changed} of {self.texts:,} answers differ, at most {self.risk:.2%} promised: "
            f"{verdict} (p = {self.p_value:.3g}, at any time)"
        )


def evidence_of(changed: int, texts: int, risk: float) -> float:
    """Return e of this module's formula for so many changed answers of the texts."""
    from scipy.special import betaln
    from scipy.stats import beta

    weight = 1 / risk
    first, second = changed + 1.0, texts - changed + weight
    log_above = beta.logsf(risk, first, second) - beta.logsf(risk, 1.0, weight)
    log_mean = betaln(first, second) - betaln(1.0, weight)
    log_null = changed * math.log(risk) + (texts - changed) * math.log1p(-risk)
    return math.exp(min(700.0, log_above + log_mean - log_null))
