"""Runs of a model at its operating points; those of exits are told from one without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fewer.core.exit_replay import replay_exits
from fewer.core.operating_points import OperatingPoints, Point
from fewer.core.trace import Trace, publish
from fewer.hf.attach import attachment
from fewer.measure.evaluate import run_all
from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fewer.core.policy import Policy
    from fewer.hf.task_heads import TaskHead
    from fewer.kernels.cpu.library import Isa

__all__ = ["PointRuns", "RunResult"]

RunResult = tuple[Any, list[Trace], list[int]]  # answers, traces and row order, of `run_all`


@dataclass
class PointRuns:
    """Runs of an attached model over a data set at operating points.

    Those that differ in who exits alone are told from one in which nothing exits, computing no
    layer again. Their numbers are the same as far as those of a text do not depend on its batch.
    """

    model: PreTrainedModel
    encoded: Dataset
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    _recorded: _Recorded | None = field(default=None, init=False)  # the last run without exits

    def run(self, points: OperatingPoints | None, title: str) -> RunResult:
        """Return what `run_all` does, at the point that is set where there are any."""
        if points is None:
            return self._run(title)
        point = points.present
        closed = points.close_exits(point)
        if closed is None:
            return self._run(title)
        within, match = closed
        attached = attachment(self.model)
        key = (attached.policy, attached.isa, within)
        if self._recorded is None or self._recorded.key != key:
            points.restore(within)
            self._recorded = self._record(key, title)
            points.restore(point)
        with _forwarding(self.model, self._recorded.replay(match, attached.head)):
            return self._run(title)

    def _run(self, title: str) -> RunResult:
        return run_all(self.model, self.encoded, self.tokenizer, self.scorer, title)

    def _record(self, key: _Key, title: str) -> _Recorded:
        outputs: list[Any] = []
        original = self.model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            outputs.append(original(*args, **kwargs))
            return outputs[-1]

        with _forwarding(self.model, forward):
            _, traces, _ = self._run(title)
        return _Recorded(key, outputs, traces)


_Key = tuple["Policy", "Isa | None", Point]  # what a run was of


@dataclass(frozen=True)
class _Recorded:
    """The outputs and traces of every batch of a run in which nothing exits."""

    key: _Key
    outputs: Sequence[Any]
    traces: Sequence[Trace]

    def replay(self, match: Callable[[Tensor], Tensor], head: TaskHead) -> Callable[..., Any]:
        """Return a `forward` that answers batch by batch, with the exits that `match` tells."""
        batches = iter(zip(self.outputs, self.traces, strict=True))

        def forward(*args: Any, **kwargs: Any) -> Any:
            output, trace = next(batches)
            output, logits = copy(output), head.get_logits(output)
            replayed = replay_exits(trace, match, of_texts=logits.ndim == 2)
            head.set_logits(output, replayed.answered(logits), None)
            publish(replayed)
            return output

        return forward


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
