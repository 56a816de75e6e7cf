"""Runs of a model at all thresholds of its exits, told from one run in which nothing exits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fewer.core.exit_replay import replay_exits
from fewer.core.trace import Trace, publish
from fewer.hf.attach import attachment
from fewer.measure.evaluate import run_all
from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ExitRuns", "record_exits"]


@dataclass(frozen=True)
class ExitRuns:
    """The outputs and traces of every batch of a data set, with no text exiting."""

    model: PreTrainedModel
    encoded: Dataset
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    outputs: Sequence[Any]
    traces: Sequence[Trace]

    def run_at(
        self, match: Callable[[Tensor], Tensor], title: str
    ) -> tuple[Any, list[Trace], list[int]]:
        """Return what `run_all` would with the exits of a threshold, computing no layer.

        `match` tells which values of `ExitOutput.measure` exit. Numbers are the same as far as
        those of a text do not depend on what else is in its batch.
        """
        batches = iter(zip(self.outputs, self.traces, strict=True))
        head = attachment(self.model).head

        def answer(*args: Any, **kwargs: Any) -> Any:
            output, trace = next(batches)
            output, logits = copy(output), head.get_logits(output)
            replayed = replay_exits(trace, match, of_texts=logits.ndim == 2)
            head.set_logits(output, replayed.answered(logits), None)
            publish(replayed)
            return output

        with _forwarding(self.model, answer):
            return run_all(self.model, self.encoded, self.tokenizer, self.scorer, title)


def record_exits(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    title: str,
) -> ExitRuns:
    """Run an attached model, at whose threshold nothing exits, over all rows."""
    outputs: list[Any] = []
    original = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs.append(original(*args, **kwargs))
        return outputs[-1]

    with _forwarding(model, forward):
        _, traces, _ = run_all(model, encoded, tokenizer, scorer, title)
    return ExitRuns(model, encoded, tokenizer, scorer, outputs, traces)


@contextmanager
def _forwarding(model: PreTrainedModel, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a model's passes inside the block be those of another function."""
    before = vars(model).get("forward")
    vars(model)["forward"] = forward
    try:
        yield
    finally:
        del vars(model)["forward"]
        if before is not None:
            vars(model)["forward"] = before
