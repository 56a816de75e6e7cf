"""Training on Long Range Arena: Hugging Face's Trainer with its schedules, scored on dev."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fewer.training.checkpoints import newest_whole
from fewer.training.device import training_device
from fewer.training.trainer import StrictTrainer
from fewer_lra.batches import LabelCollator, MaskingCollator, batch, texts
from fewer_lra.model import LRAModel
from fewer_lra.recipes import LRASchedule
from fewer_lra.tasks.task import LRATask, Rows

__all__ = ["accuracy", "learning_rate_factor", "pretrain", "train"]

_EVALUATION_BATCH = 2  # batch size of evaluation, in batches of training
History = list[tuple[int, float]]


def train(
    model: LRAModel, task: LRATask, schedule: LRASchedule, folder: Path, seed: int
) -> History:
    """Train on the labels; returns the accuracy on dev by step.

    Resumes from the newest complete checkpoint in `folder` and writes `best.pt` there: the
    weights of the first step of highest accuracy on dev.
    """
    callback = _DevCallback(task.dev, schedule, folder)
    _train(model, task.train, LabelCollator(task.train), schedule, folder, seed, [callback])
    return callback.history


def pretrain(
    model: LRAModel, task: LRATask, schedule: LRASchedule, folder: Path, seed: int
) -> None:
    """Train on the task's own inputs, without labels, to predict masked tokens."""
    rows = texts(task.train)
    collate = MaskingCollator(rows, task.mask_id, schedule.masked)
    _train(_MaskedModel(model), rows, collate, schedule, folder, seed, [])


def accuracy(model: nn.Module, rows: Rows, batch_size: int) -> float:
    """Return the share (0..1) of rows whose label has the highest logit.

    Batches hold rows of similar length. The mode of the model does not change.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    order, correct = rows.lengths.argsort(kind="stable"), 0
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            inputs = batch(rows, order[start : start + batch_size])
            inputs = {name: values.to(device) for name, values in inputs.items()}
            labels = inputs.pop("labels")
            correct += int((model(**inputs)["logits"].argmax(-1) == labels).sum())
    model.train(was_training)
    return correct / len(rows)


def learning_rate_factor(schedule: LRASchedule, step: int) -> float:
    """Return the learning rate of a step over that of the schedule.

    Steps count from 1, so that the first has no learning rate of 0.
    """
    warmup = min(1.0, step / schedule.warmup) if schedule.warmup else 1.0
    remaining = max(schedule.steps - step, 0) / max(schedule.steps - schedule.warmup, 1)
    decays = {
        "rsqrt": 1 / math.sqrt(max(step, schedule.warmup)),
        "cosine": (1 + math.cos(math.pi * min(step / schedule.steps, 1))) / 2,
        "linear": min(remaining, 1.0),
        "constant": 1.0,
    }
    return warmup * decays[schedule.shape]


class _MaskedModel(nn.Module):
    """A model whose forward predicts masked tokens."""

    def __init__(self, model: LRAModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, lengths: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.model.forward_masked(input_ids, lengths, labels)


class _ArenaTrainer(StrictTrainer):
    """AdamW with one of the arena's schedules."""

    def __init__(self, *args: Any, schedule: LRASchedule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedule = schedule

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule of the learning rate."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or cast("torch.optim.Optimizer", self.optimizer),
                lambda step: learning_rate_factor(self.schedule, step + 1),
            )
        return self.lr_scheduler


class _DevCallback(TrainerCallback):
    """Score dev at intervals and keep the best weights; the history is written to a file."""

    def __init__(self, dev: Rows, schedule: LRASchedule, folder: Path) -> None:
        self.dev, self.schedule, self.folder = dev, schedule, folder
        self.history: History = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the history up to the step at which training resumes."""
        path = self.folder / "dev.json"
        if path.exists() and state.global_step:
            history = json.loads(path.read_text(encoding="utf-8"))
            self.history = [(step, score) for step, score in history if step <= state.global_step]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the model every `evaluate_every` steps."""
        step, model = state.global_step, kwargs["model"]
        if step % self.schedule.evaluate_every and step < self.schedule.steps:
            return
        score = accuracy(model, self.dev, _EVALUATION_BATCH * self.schedule.batch_size)
        if score > max((previous for _, previous in self.history), default=-1.0):
            _write_atomically(self.folder / "best.pt", partial(torch.save, model.state_dict()))
        self.history.append((step, score))
        content = json.dumps(self.history)
        _write_atomically(
            self.folder / "dev.json", lambda path: path.write_text(content, encoding="utf-8")
        )


def _write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically."""
    temporary = path.with_suffix(".tmp")
    write(temporary)
    temporary.replace(path)


def _train(
    model: nn.Module,
    rows: Rows,
    collate: LabelCollator | MaskingCollator,
    schedule: LRASchedule,
    folder: Path,
    seed: int,
    callbacks: list[TrainerCallback],
) -> None:
    checkpoint = newest_whole(folder)
    trainer = _ArenaTrainer(
        model=model,
        args=_arguments(schedule, folder, seed),
        train_dataset=range(len(rows)),
        data_collator=collate,
        callbacks=callbacks,
        schedule=schedule,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _arguments(schedule: LRASchedule, folder: Path, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-9,
        max_grad_norm=schedule.clip,
        bf16=schedule.precision == "bf16",
        seed=seed,
        save_steps=schedule.evaluate_every,
        save_total_limit=1,
        logging_steps=schedule.evaluate_every,
        report_to="none",
        remove_unused_columns=False,  # rows are numbers; the collator makes the columns
        disable_tqdm=False,
        use_cpu=training_device().type == "cpu",
    )
