"""The Hugging Face Trainer, with a policy's loss, its own learning rate, and sealed checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fewer._files.disk import writing
from fewer.core.policy import ObservingPolicy, Phase, Policy, TeacherOutput, TrainingBatch
from fewer.core.trace import record
from fewer.hf.attach import attachment
from fewer.hf.task_heads import Answers, labels_of, logits_of, task_loss
from fewer.training.checkpoints import load_weights, seal
from fewer.training.qa_collator import RELEVANT

__all__ = ["PhaseTrainer", "StrictTrainer", "parameter_groups", "teacher_of", "training_only"]


class StrictTrainer(Trainer):
    """Seal checkpoints, and load them whole or not at all.

    The Trainer loads a checkpoint non-strictly. transformers saves weights under the names that
    they were loaded by, so of a BERT with norms gamma and beta the norms were left as they were.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(Seal())

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        place = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with writing(place):
            super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the weights by the names that they have in the model."""
        model = cast("Any", self.model)
        conversions = vars(model).get("_weight_conversions")
        model._weight_conversions = []
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model._weight_conversions
            if conversions is not None:
                model._weight_conversions = conversions

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        load_weights(cast("nn.Module", model or self.model), Path(resume_from_checkpoint))


class PhaseTrainer(StrictTrainer):
    """Train one phase, adding the policy's loss where the phase asks for it."""

    def __init__(self, *args: Any, phase: Phase, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase = phase
        self.model_accepts_loss_kwargs = False  # losses are means over a batch of texts
        self._teacher = teacher_of(cast("nn.Module", self.model)) if phase.teacher else None

    def compute_loss(  # type: ignore[override]  # passes on whatever this version takes
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Add the policy's loss for every pass that the task's loss took."""
        whole = self.accelerator.unwrap_model(model)
        own = attachment(whole)
        learns = self.phase.regularise and model.training
        if learns and self.phase.trains == "policy":
            model.eval()  # what stays as it is is read without dropout
            own.policy.train()
        answers, labels = own.shape.answers, labels_of(inputs, own.shape.answers)
        relevant = inputs.pop(RELEVANT, None)  # no model's forward takes it
        with record() as traces:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if learns:
            told, task = logits_of(outputs, answers), task_loss(whole.config, answers)
            taught, step = self._taught(inputs, answers), self.state.global_step
            lessons = [
                TrainingBatch(trace, self.phase, step, told, labels, task, relevant, taught)
                for trace in traces
            ]
            added = [own.policy.loss(lesson) for lesson in lessons]
            loss = torch.stack([*([loss] if self.phase.task else []), *added]).sum()
        return (loss, outputs) if return_outputs else loss

    def _taught(self, inputs: Any, answers: Answers) -> TeacherOutput | None:
        """Ask the teacher, if the phase has one, in the precision that the phase trains in."""
        if self._teacher is None:
            return None
        with self.accelerator.autocast(), torch.no_grad(), record() as traces:
            output = self._teacher(**inputs)
        return TeacherOutput(logits_of(output, answers), traces[0])

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW over the phase's groups of parameters."""
        if self.optimizer is None:
            groups = parameter_groups(
                cast("nn.Module", self.model), self.phase, self.args.weight_decay
            )
            self.optimizer = torch.optim.AdamW(groups, lr=self.phase.learning_rate, fused=True)
        return self.optimizer


def teacher_of(model: nn.Module) -> nn.Module:
    """Copy a model as it is, to read in full what it is asked, and show what its learner watches.

    The learner is the policy that is attached to `model`.
    """
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    attachment(teacher).policy = ObservingPolicy(attachment(model).policy)
    return teacher


class Seal(TrainerCallback):
    """Seals each checkpoint when it is written, so that a torn one is known."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the manifest."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            seal(folder)


@contextmanager
def training_only(model: nn.Module, phase: Phase) -> Iterator[None]:
    """Let only what the phase trains require a gradient inside the block.

    That is the model, the part of the policy whose phase it is, or both; never weights of the model
    that were frozen before, such as those under adapters.
    """
    policy = attachment(model).policy
    whole = {id(parameter) for parameter in policy.parameters()}
    own = {id(parameter) for parameter in policy.part(phase.part).parameters()}
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, required in before:
        wanted = required and phase.trains in ("all", "model")
        if id(parameter) in whole:
            wanted = id(parameter) in own and phase.trains in ("all", "policy")
        parameter.requires_grad_(wanted)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def parameter_groups(model: nn.Module, phase: Phase, weight_decay: float) -> list[dict[str, Any]]:
    """Split what trains: matrices (decayed), other weights, the policy (own rate, no decay).

    What does not require a gradient is left out; `training_only` sets it for a phase.
    """
    policy = attachment(model).policy
    own = {id(parameter) for parameter in policy.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if id(parameter) not in own]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in weights if one.ndim >= 2], "weight_decay": weight_decay},
        {"params": [one for one in weights if one.ndim < 2], "weight_decay": 0.0},
    ]
    for part, rate in _rates(policy, phase):
        learned = [one for one in part.parameters() if one.requires_grad]
        groups.append({"params": learned, "weight_decay": 0.0, "lr": rate or phase.learning_rate})
    return [group for group in groups if group["params"]]


def _rates(policy: Policy, phase: Phase) -> list[tuple[Policy, float | None]]:
    """Pair the parts of a policy with their learning rates."""
    rate = phase.policy_learning_rate
    if not isinstance(rate, tuple):
        return [(policy, rate)]
    return [(policy.part((number,)), own) for number, own in enumerate(rate)]
