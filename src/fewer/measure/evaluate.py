"""The three-way comparison: padded Hugging Face, the same model packed, and with its method."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.core.policy import Dense
from fewer.core.trace import Trace, record
from fewer.hf.attach import attach, attachment, detach, is_attached
from fewer.hf.optimize import optimize, precision_of
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Outcome",
    "batches",
    "costs",
    "flops_of",
    "histogram",
    "predict",
    "read_all",
    "read_systems",
    "scored",
    "systems",
    "three_way",
]


@dataclass(frozen=True)
class Outcome:
    """What one system said about a data set, and what it took."""

    answers: Any  # what the scorer reads: logits (texts, C), or the tags of every sentence
    flops_per_text: float
    tokens_per_layer: list[float]  # mean over texts


def systems(
    model: PreTrainedModel, baseline: PreTrainedModel | None = None
) -> dict[str, PreTrainedModel]:
    """Return the systems to compare: padded, packed, and the method if the model has one.

    The first two are copies of `baseline`, the model that one would run otherwise; without one, of
    the model itself, whose weights were tuned for its method.
    """
    own, dense = attachment(model), model if baseline is None else baseline
    packed = attach(copy.deepcopy(dense), Dense(), kernel=own.settings.kernel)
    if own.isa is not None:
        optimize(packed, precision=precision_of(model))
    found = {"padded": detach(copy.deepcopy(dense)), "packed": packed}
    if not isinstance(own.method, Dense):
        found["method"] = model
    return {name: system.eval() for name, system in found.items()}


def batches(
    encoded: Dataset, tokenizer: PreTrainedTokenizerBase, order: list[int], size: int
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Cut rows into padded batches in this order; yields row numbers and the model's inputs."""
    columns = [name for name in tokenizer.model_input_names if name in encoded.column_names]
    plain = encoded.select_columns(columns)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        taken = plain[rows]
        yield rows, dict(tokenizer.pad(taken, return_tensors="pt"))


def predict(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    title: str = "predict",
) -> Outcome:
    """Run a model over encoded rows, sorted by length; a progress bar shows on a terminal.

    An attached model reads batches of `TOKEN_BUDGET` tokens, another of `batch_size` texts, whose
    FLOPs are those of batches padded in the data's own order, as users run them. A text that is
    read in windows costs what all of them cost.
    """
    texts = len(set(scorer.texts(encoded)))
    if is_attached(model):
        found, passes, _ = read_all(model, encoded, tokenizer, scorer, title)
        return Outcome(found, *_of_traces(model, passes, texts))
    lengths = torch.tensor(encoded["length"])
    order = [rows.tolist() for rows in lengths.argsort(stable=True).split(batch_size)]
    found = scorer.read(model, encoded, tokenizer, order, title)
    return Outcome(found, *_of_lengths(attach(copy.deepcopy(model)), lengths, batch_size, texts))


def read_all(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    title: str,
) -> tuple[Any, list[Trace], list[int]]:
    """Read all rows with an attached model: its answers, the traces, the rows in their order."""
    order = token_budget_batches(list(encoded["length"]), TOKEN_BUDGET)
    with record() as passes:
        found = scorer.read(model, encoded, tokenizer, order, title)
    return found, passes, [row for batch in order for row in batch]


def flops_of(
    model: PreTrainedModel, encoded: Dataset, tokenizer: PreTrainedTokenizerBase, scorer: Scorer
) -> tuple[float, float]:
    """Return the FLOPs that an attached model spends on these rows, and those of a dense one."""
    _, passes, _ = read_all(model, encoded, tokenizer, scorer, "FLOPs")
    shape = attachment(model).shape
    spent = sum(float(shape.flops(trace).sum()) for trace in passes)
    return spent, sum(float(shape.dense_flops_of(trace).sum()) for trace in passes)


def three_way(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    baseline: PreTrainedModel | None = None,
) -> dict[str, dict[str, Any]]:
    """Score every one of `systems` on the same rows: metrics, FLOPs a text, tokens a layer."""
    outcomes = read_systems(
        model, encoded, tokenizer, scorer, batch_size=batch_size, baseline=baseline
    )
    return scored(outcomes, scorer, len(set(scorer.texts(encoded))))


def read_systems(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    baseline: PreTrainedModel | None = None,
) -> dict[str, Outcome]:
    """Let every one of `systems` read the same rows."""
    return {
        name: predict(system, encoded, tokenizer, scorer, batch_size=batch_size, title=name)
        for name, system in systems(model, baseline).items()
    }


def scored(
    outcomes: Mapping[str, Outcome], scorer: Scorer, texts: int
) -> dict[str, dict[str, Any]]:
    """Score outcomes, and hold them against the dense model as Hugging Face runs it."""
    return {
        name: {
            "metrics": scorer.score(outcome.answers),
            "halves": _halves(scorer, outcome.answers, texts),
            **costs(outcome, outcomes["padded"], scorer),
        }
        for name, outcome in outcomes.items()
    }


def costs(outcome: Outcome, dense: Outcome, scorer: Scorer) -> dict[str, Any]:
    """Return what needs no labels: answers that differ from the dense model's, FLOPs, tokens."""
    remark = scorer.remark(outcome.answers)
    return {
        "changed": scorer.changed(outcome.answers, dense.answers),
        **({"remark": remark} if remark else {}),
        "flops_per_text": outcome.flops_per_text,
        "tokens_per_layer": outcome.tokens_per_layer,
    }


def _halves(scorer: Scorer, answers: Any, texts: int) -> list[dict[str, Any]]:
    """Score the texts of even and of odd number: choose on one half, report on the other."""
    parts = [range(start, texts, 2) for start in (0, 1)]
    return [{"metrics": scorer.score(answers, part)} for part in parts if part]


def histogram(lengths: list[int], bins: int = 24) -> dict[str, list[int]]:
    """Count texts by length: `edges` (bins + 1 whole numbers) and `counts`."""
    top = max(lengths) + 1
    step = max(1, -(-top // bins))
    edges = list(range(0, top + step, step))
    counts = torch.histc(torch.tensor(lengths).float(), len(edges) - 1, 0, edges[-1])
    return {"edges": edges, "counts": [int(count) for count in counts]}


def _of_traces(
    model: PreTrainedModel, passes: list[Trace], texts: int
) -> tuple[float, list[float]]:
    shape = attachment(model).shape
    flops = sum(float(shape.flops(trace).sum()) for trace in passes)
    read = torch.zeros(shape.num_layers)
    for trace in passes:
        for number, layer in enumerate(trace.layers):
            read[number] += layer.read.sum().cpu()
    return flops / texts, (read / texts).tolist()


def _of_lengths(
    model: PreTrainedModel, lengths: Tensor, batch_size: int, texts: int
) -> tuple[float, list[float]]:
    shape = attachment(model).shape
    padded = torch.cat([part.max().expand_as(part) for part in lengths.split(batch_size)]).float()
    flops = shape.dense_flops(padded.double())
    return float(flops.sum()) / texts, [float(padded.sum()) / texts] * shape.num_layers
