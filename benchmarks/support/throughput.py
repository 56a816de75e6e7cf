"""Tokens per second in training: Hugging Face's Trainer and ours, in turn.

Every system runs the real loop of `transformers.Trainer` with the same arguments, on the same
batches in the same order: texts grouped by length, as both do by default here. Only real tokens
count, not padding. Short runs alternate, so that noise of the machine affects all alike.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from fewer.core.phase import Phase
from fewer.core.policy import Dense, Method
from fewer.hf.attach import attach, detach
from fewer.training.device import synchronize, training_device
from fewer.training.trainer import PhaseTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["throughput"]

PRECISIONS = ("fp32", "bf16")


@dataclass
class _System:
    """A model and how it trains; `phase` is `None` for the plain Trainer."""

    model: PreTrainedModel
    phase: Phase | None
    bf16: bool
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def throughput(
    model: PreTrainedModel,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    *,
    batch_size: int = 32,
    rounds: int = 4,
    steps: int = 3,
    precisions: Sequence[str] = PRECISIONS,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Train copies of `model` for `rounds` x `steps` timed steps each, after one untimed per round.

    The systems are `trainer` (padded), `packed`, and the phases of `method`, in each precision.
    Dropout is the model's own for all. Returns, by `name precision`, `tokens_per_s` (median, p5,
    p95 over the steps), `seconds` per step, and `speedup`: the median of ratios, step by step, to
    the Trainer in the same precision; and `tokens_per_cpu_s` and `cpu_speedup` by processor time,
    which other work on the machine disturbs less (use it with one thread and no GPU). Raises
    `ValueError` for fewer than one round or step.
    """
    if rounds < 1 or steps < 1:
        raise ValueError(f"rounds={rounds}, steps={steps}: wanted 1 or more of each")
    systems = {
        f"{name} {precision}": system
        for precision in precisions
        for name, system in _build_systems(model, method, precision == "bf16").items()
    }
    for repetition in range(rounds):
        for system in systems.values():
            _train(system, encoded, tokenizer, batch_size, steps + 1, seed + repetition)
    return {
        name: _summarize(system, systems[f"trainer {name.rpartition(' ')[2]}"])
        for name, system in systems.items()
    }


def _build_systems(model: PreTrainedModel, method: Method, bf16: bool) -> dict[str, _System]:
    plain = detach(copy.deepcopy(model))
    packed = attach(copy.deepcopy(plain), Dense())
    dense = Phase("packed", "compact", "all", 1.0, 1e-5)
    systems = {"trainer": _System(plain, None, bf16), "packed": _System(packed, dense, bf16)}
    for phase in method.phases():
        systems[phase.name] = _System(attach(copy.deepcopy(packed), method), phase, bf16)
    return systems


def _train(
    system: _System,
    encoded: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    steps: int,
    seed: int,
) -> None:
    """Run a few steps and record all but the first."""
    clock, counter = _Clock(), _Counter(DataCollatorWithPadding(tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "model": system.model,
            "args": _arguments(folder, system.bf16, batch_size, steps, seed),
            "train_dataset": encoded,
            "data_collator": counter,
            "callbacks": [clock],
        }
        if system.phase is None:
            trainer = Trainer(**options)
        else:
            trainer = PhaseTrainer(**options, phase=system.phase)
        trainer.train()
    system.seconds += [after - before for before, after in pairwise(clock.ends)]
    system.cpu_seconds += [after - before for before, after in pairwise(clock.cpu_ends)]
    system.tokens += counter.tokens[1:steps]


def _arguments(
    folder: str, bf16: bool, batch_size: int, steps: int, seed: int
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=1e-5,
        bf16=bf16,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=training_device().type == "cpu",
    )


class _Clock(TrainerCallback):
    """Record when each step ends; the time from end to end is a complete step."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronize(training_device())
        self.ends.append(time.perf_counter())
        self.cpu_ends.append(time.process_time())


class _Counter:
    """A collator that counts the real tokens of each batch."""

    def __init__(self, collate: DataCollatorWithPadding) -> None:
        self.collate = collate
        self.tokens: list[int] = []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self.collate(rows)
        self.tokens.append(int(cast("Tensor", batch["attention_mask"]).sum()))
        return batch


def _summarize(system: _System, padded: _System) -> dict[str, float]:
    tokens = torch.tensor(system.tokens, dtype=torch.float64)
    wall, cpu, padded_wall, padded_cpu = (
        torch.tensor(seconds, dtype=torch.float64)
        for timed in (system, padded)
        for seconds in (timed.seconds, timed.cpu_seconds)
    )
    low, median, high = (float((tokens / wall).quantile(q)) for q in (0.05, 0.5, 0.95))
    return {
        "tokens_per_s": median,
        "p5": low,
        "p95": high,
        "seconds": float(wall.median()),
        "steps": len(tokens),
        "speedup": float((padded_wall / wall).median()),
        "tokens_per_cpu_s": float((tokens / cpu).median()),
        "cpu_speedup": float((padded_cpu / cpu).median()),
    }
