"""The three-way comparison: padded Hugging Face, the same model packed, and with its method."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewer.core.policy import Dense
from fewer.core.trace import Trace, record
from fewer.hf.attach import attach, attachment, detach, is_attached
from fewer.hf.optimize import optimize, precision_of
from fewer.inference.batching import token_budget_batches
from fewer.inference.predict import TOKEN_BUDGET
from fewer.inference.tag import label_names
from fewer.measure.bootstrap import mean_difference
from fewer.measure.scorers import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Outcome",
    "batches",
    "build_systems",
    "cost_metrics",
    "histogram",
    "measure_flops",
    "predict",
    "run_all",
    "run_systems",
    "score_systems",
    "sum_flops",
    "sum_traces",
    "three_way",
]


@dataclass(frozen=True)
class Outcome:
    """The answers of one system to a data set, and their cost."""

    answers: Any  # input of the scorer: logits (texts, C), or the tags of each sentence
    flops_per_text: float
    tokens_per_layer: list[float]  # mean over texts


def build_systems(
    model: PreTrainedModel, baseline: PreTrainedModel | None = None
) -> dict[str, PreTrainedModel]:
    """Return the systems to compare: padded, packed, and the method if the model has one.

    The first two are copies of `baseline`, the dense fine-tuned model; without it, of the model
    itself, whose weights were trained for its method. Raises `ValueError` for a baseline with other
    labels, or the same in another order.
    """
    if baseline is not None:
        _refuse_other_labels(model, baseline)
    attached, dense = attachment(model), model if baseline is None else baseline
    packed = attach(copy.deepcopy(dense), Dense(), kernel=attached.settings.kernel)
    if attached.isa is not None:
        optimize(packed, precision=precision_of(model))
    models = {"padded": detach(copy.deepcopy(dense)), "packed": packed}
    if not isinstance(attached.method, Dense):
        models["method"] = model
    return {name: system.eval() for name, system in models.items()}


def _refuse_other_labels(model: PreTrainedModel, baseline: PreTrainedModel) -> None:
    labels, baseline_labels = label_names(model), label_names(baseline)
    if len(labels) != len(baseline_labels) or (
        labels != baseline_labels and sorted(labels) == sorted(baseline_labels)
    ):
        raise ValueError(
            f"baseline must have the labels of the model, in the same order: {', '.join(labels)}; "
            f"got {', '.join(baseline_labels)}. Give the model that this one was trained from."
        )


def batches(
    encoded: Dataset, tokenizer: PreTrainedTokenizerBase, order: list[int], size: int
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield padded batches of rows in this order: row numbers and the model's inputs."""
    columns = [name for name in tokenizer.model_input_names if name in encoded.column_names]
    inputs = encoded.select_columns(columns)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, dict(tokenizer.pad(inputs[rows], return_tensors="pt"))


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

    Batches of an attached model have `TOKEN_BUDGET` tokens, or are the list of a query where its
    method compares documents; those of any other have `batch_size` texts, and its FLOPs are counted
    for batches padded in the order of the data, as users run them. The cost of a text is that of
    all its windows.
    """
    texts = len(set(scorer.texts(encoded)))
    if is_attached(model):
        answers, traces, _ = run_all(model, encoded, tokenizer, scorer, title)
        return Outcome(answers, *sum_traces(model, traces, texts))
    lengths = torch.tensor(encoded["length"])
    order = [rows.tolist() for rows in lengths.argsort(stable=True).split(batch_size)]
    answers = scorer.read(model, encoded, tokenizer, order, title)
    return Outcome(answers, *_sum_padded(attach(copy.deepcopy(model)), lengths, batch_size, texts))


def run_all(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    title: str,
) -> tuple[Any, list[Trace], list[int]]:
    """Run an attached model over all rows; return its answers, the traces and the row order."""
    lengths, lists = list(encoded["length"]), scorer.lists(model)
    order = token_budget_batches(lengths, TOKEN_BUDGET) if lists is None else lists.batches(lengths)
    with record() as traces:
        answers = scorer.read(model, encoded, tokenizer, order, title)
    return answers, traces, [row for batch in order for row in batch]


def measure_flops(
    model: PreTrainedModel, encoded: Dataset, tokenizer: PreTrainedTokenizerBase, scorer: Scorer
) -> tuple[float, float]:
    """Return the FLOPs of an attached model for these rows, and those of a dense model."""
    _, traces, _ = run_all(model, encoded, tokenizer, scorer, "FLOPs")
    return sum_flops(model, traces)


def sum_flops(model: PreTrainedModel, traces: Sequence[Trace]) -> tuple[float, float]:
    """Return the FLOPs of these passes, and those of a dense model for the same rows."""
    spec = attachment(model).spec
    flops = sum(float(spec.flops(trace).sum()) for trace in traces)
    return flops, sum(float(spec.dense_flops_of(trace).sum()) for trace in traces)


def three_way(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    baseline: PreTrainedModel | None = None,
) -> dict[str, dict[str, Any]]:
    """Score all systems on the same rows: metrics, FLOPs per text, tokens per layer."""
    outcomes = run_systems(
        model, encoded, tokenizer, scorer, batch_size=batch_size, baseline=baseline
    )
    return score_systems(outcomes, scorer, len(set(scorer.texts(encoded))))


def run_systems(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    baseline: PreTrainedModel | None = None,
) -> dict[str, Outcome]:
    """Run all systems over the same rows."""
    return {
        name: predict(system, encoded, tokenizer, scorer, batch_size=batch_size, title=name)
        for name, system in build_systems(model, baseline).items()
    }


def score_systems(
    outcomes: Mapping[str, Outcome], scorer: Scorer, texts: int
) -> dict[str, dict[str, Any]]:
    """Score outcomes, and compare them with the padded dense model of Hugging Face.

    The method's `difference` from packed is that of the first metric, with its paired interval; it
    is left out where that is no mean over texts.
    """
    systems: dict[str, dict[str, Any]] = {
        name: {
            "metrics": scorer.score(outcome.answers),
            "halves": _score_halves(scorer, outcome.answers, texts),
            **cost_metrics(outcome, outcomes["padded"], scorer),
        }
        for name, outcome in outcomes.items()
    }
    answers = [outcomes[name].answers for name in ("method", "packed") if name in outcomes]
    if len(answers) == 2 and texts > 1:
        interval = mean_difference(scorer, answers[:1], answers[1:], range(texts))
        if interval is not None:
            systems["method"]["difference"] = asdict(interval)
    return systems


def cost_metrics(outcome: Outcome, dense: Outcome, scorer: Scorer) -> dict[str, Any]:
    """Return the values that need no labels: share of changed answers, FLOPs, tokens per layer."""
    remark = scorer.remark(outcome.answers)
    return {
        "changed": scorer.changed(outcome.answers, dense.answers),
        **({"remark": remark} if remark else {}),
        "flops_per_text": outcome.flops_per_text,
        "tokens_per_layer": outcome.tokens_per_layer,
    }


def _score_halves(scorer: Scorer, answers: Any, texts: int) -> list[dict[str, Any]]:
    """Score texts of even and odd number: choose settings on one half, report the other."""
    parts = [range(start, texts, 2) for start in (0, 1)]
    return [{"metrics": scorer.score(answers, part)} for part in parts if part]


def histogram(lengths: list[int], bins: int = 24) -> dict[str, list[int]]:
    """Count texts by length: `edges` (bins + 1 integers) and `counts`."""
    end = max(lengths) + 1
    step = max(1, -(-end // bins))
    edges = list(range(0, end + step, step))
    counts = torch.histc(torch.tensor(lengths).float(), len(edges) - 1, 0, edges[-1])
    return {"edges": edges, "counts": [int(count) for count in counts]}


def sum_traces(
    model: PreTrainedModel, traces: list[Trace], texts: int
) -> tuple[float, list[float]]:
    """Return FLOPs per text, and the mean number of tokens that each layer reads."""
    spec = attachment(model).spec
    flops = sum(float(spec.flops(trace).sum()) for trace in traces)
    tokens = torch.zeros(spec.num_layers)
    for trace in traces:
        for number, layer in enumerate(trace.layers):
            tokens[number] += layer.read.sum().cpu()
    return flops / texts, (tokens / texts).tolist()


def _sum_padded(
    model: PreTrainedModel, lengths: Tensor, batch_size: int, texts: int
) -> tuple[float, list[float]]:
    spec = attachment(model).spec
    padded_lengths = torch.cat(
        [part.max().expand_as(part) for part in lengths.split(batch_size)]
    ).float()
    flops = spec.dense_flops(padded_lengths.double())
    return float(flops.sum()) / texts, [float(padded_lengths.sum()) / texts] * spec.num_layers
