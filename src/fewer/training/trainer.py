"""The Hugging Face Trainer with a policy's loss and learning rate, and checkpoint manifests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fewer._files.disk import writing
from fewer.core.learning import TeacherOutput, TrainingBatch
from fewer.core.phase import Pass, Phase
from fewer.core.policy import ObservingPolicy, Policy
from fewer.core.stack import part_of
from fewer.core.trace import record
from fewer.hf.attach import attachment, running
from fewer.hf.task_heads import TaskHead
from fewer.training.checkpoints import load_weights, write_manifest
from fewer.training.qa_collator import RELEVANT

__all__ = ["PhaseTrainer", "StrictTrainer", "parameter_groups", "teacher_of", "training_only"]


class StrictTrainer(Trainer):
    """Write a manifest for each checkpoint, and load all its weights or none.

    The Trainer loads a checkpoint non-strictly. transformers saves weights under the names in the
    file that they came from, so the norms of a BERT with gamma and beta were not loaded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(ManifestCallback())

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with writing(folder):
            super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the weights under their names in the model."""
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
    """Train one phase, with the policy's loss where the phase regularises."""

    def __init__(self, *args: Any, phase: Phase, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase = phase
        self.model_accepts_loss_kwargs = False  # losses are means over a batch of texts
        self._teacher = teacher_of(cast("nn.Module", self.model)) if phase.teacher else None

    def compute_loss(  # type: ignore[override]  # passes on the options of any version
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Add the policy's loss of every pass to the task's loss."""
        raw_model = self.accelerator.unwrap_model(model)
        attached = attachment(raw_model)
        regularises = self.phase.regularise and model.training
        if regularises and self.phase.trains == "policy":
            model.eval()  # frozen weights compute without dropout
            attached.policy.train()
        head, labels = attached.head, attached.head.get_labels(inputs)
        relevant = inputs.pop(RELEVANT, None)  # no model's forward takes it
        dense_teacher = self._run_teacher(inputs, head) if regularises else None
        step = self.state.global_step
        task_weight = float(self.phase.task or not regularises)
        passes = self.phase.passes or (Pass(self.phase.apply, task_weight),)
        losses: list[Tensor] = []
        teachers: list[TeacherOutput] = []  # earlier passes
        for number, settings in enumerate(passes):
            phase = self.phase.of_pass(number) if self.phase.passes else self.phase
            with running(raw_model, phase), record() as traces:
                loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            if settings.task:
                losses.append(settings.task * loss)
            if not regularises:
                continue
            logits, (trace,) = head.get_logits(outputs), traces
            teacher = dense_teacher if settings.teacher is None else teachers[settings.teacher]
            batch = TrainingBatch(trace, phase, step, logits, labels, head.loss, relevant, teacher)
            losses.append(settings.policy * attached.policy.loss(batch))
            teachers.append(TeacherOutput(logits.detach(), trace))
        loss = torch.stack(losses).sum()
        if self.args.world_size > 1 and torch.is_grad_enabled():
            loss = loss + 0.0 * _sum_trained(raw_model)
        return (loss, outputs) if return_outputs else loss

    def _run_teacher(self, inputs: Any, head: TaskHead) -> TeacherOutput | None:
        """Run the teacher, if the phase has one, in the precision of the phase."""
        if self._teacher is None:
            return None
        with (
            self.accelerator.autocast(),
            torch.no_grad(),
            running(self._teacher, self.phase),
            record() as traces,
        ):
            output = self._teacher(**inputs)
        return TeacherOutput(head.get_logits(output), traces[0])

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create AdamW over the phase's parameter groups."""
        if self.optimizer is None:
            groups = parameter_groups(
                cast("nn.Module", self.model), self.phase, self.args.weight_decay
            )
            self.optimizer = torch.optim.AdamW(groups, lr=self.phase.learning_rate, fused=True)
        return self.optimizer


def _sum_trained(model: nn.Module) -> Tensor:
    """Add up what is trained: each process must have a gradient for the same parameters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack([parameter.float().sum() for parameter in trained]).sum()


def teacher_of(model: nn.Module) -> nn.Module:
    """Copy a model to a dense teacher that records the states its student's policy needs.

    The student's policy is the one attached to `model`.
    """
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    attachment(teacher).policy = ObservingPolicy(attachment(model).policy)
    return teacher


class ManifestCallback(TrainerCallback):
    """Writes the manifest of each checkpoint, so that an incomplete one is detected."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the manifest."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            write_manifest(folder)


@contextmanager
def training_only(model: nn.Module, phase: Phase) -> Iterator[None]:
    """Require gradients inside the block only for the parameters that the phase trains.

    These are the model, the phase's part of the policy, or both; never weights of the model that
    were frozen before, such as those under adapters.
    """
    policy = attachment(model).policy
    policy_ids = {id(parameter) for parameter in policy.parameters()}
    part_ids = {id(parameter) for parameter in part_of(policy, phase.part).parameters()}
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, required in parameters:
        is_trained = required and phase.trains in ("all", "model")
        if id(parameter) in policy_ids:
            is_trained = id(parameter) in part_ids and phase.trains in ("all", "policy")
        parameter.requires_grad_(is_trained)
    try:
        yield
    finally:
        for parameter, required in parameters:
            parameter.requires_grad_(required)


def parameter_groups(model: nn.Module, phase: Phase, weight_decay: float) -> list[dict[str, Any]]:
    """Group trained parameters: matrices (decayed), other weights, policy (own rate, no decay).

    Parameters without `requires_grad` are left out; `training_only` sets it for a phase.
    """
    policy = attachment(model).policy
    policy_ids = {id(parameter) for parameter in policy.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if id(parameter) not in policy_ids]
    groups: list[dict[str, Any]] = [
        {
            "params": [weight for weight in weights if weight.ndim >= 2],
            "weight_decay": weight_decay,
        },
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    for part, rate in _pair_learning_rates(policy, phase):
        parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
        rate = rate or phase.learning_rate
        groups.append({"params": parameters, "weight_decay": 0.0, "lr": rate})
    return [group for group in groups if group["params"]]


def _pair_learning_rates(policy: Policy, phase: Phase) -> list[tuple[Policy, float | None]]:
    """Pair the parts of a policy with their learning rates."""
    rate = phase.policy_learning_rate
    if not isinstance(rate, tuple):
        return [(policy, rate)]
    return [(part_of(policy, (number,)), part_rate) for number, part_rate in enumerate(rate)]
