"""The Hugging Face Trainer, with a policy's loss, its own learning rate, and sealed checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fewer.core.policy import Phase
from fewer.core.trace import record
from fewer.models import attachment
from fewer.training.checkpoints import seal

__all__ = ["PhaseTrainer", "parameter_groups"]


class PhaseTrainer(Trainer):
    """Train one phase, adding the policy's loss where the phase asks for it."""

    def __init__(self, *args: Any, phase: Phase, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.phase = phase
        self.add_callback(_Seal())
        self.model_accepts_loss_kwargs = False  # losses are means over a batch of texts

    def compute_loss(  # type: ignore[override]  # passes on whatever this version takes
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Add the policy's loss for every pass that the task's loss took."""
        with record() as traces:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if self.phase.regularise and model.training:
            policy = attachment(self.accelerator.unwrap_model(model)).policy
            loss = loss + sum(
                (policy.loss(trace) for trace in traces), start=torch.zeros_like(loss)
            )
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW over the phase's groups of parameters."""
        if self.optimizer is None:
            groups = parameter_groups(
                cast("nn.Module", self.model), self.phase, self.args.weight_decay
            )
            self.optimizer = torch.optim.AdamW(groups, lr=self.phase.learning_rate, fused=True)
        return self.optimizer


class _Seal(TrainerCallback):
    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            seal(folder)


def parameter_groups(model: nn.Module, phase: Phase, weight_decay: float) -> list[dict[str, Any]]:
    """Split what trains: matrices (decayed), other weights, the policy (own rate, no decay).

    Sets `requires_grad` of all parameters to what the phase trains, leaving those that were frozen
    before (adapters' bases).
    """
    policy = {id(parameter) for parameter in attachment(model).policy.parameters()}
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    learned: list[Tensor] = []
    for parameter in model.parameters():
        if id(parameter) in policy:
            parameter.requires_grad_(phase.trains in ("all", "policy"))
            if parameter.requires_grad:
                learned.append(parameter)
        elif phase.trains != "policy" and parameter.requires_grad:
            (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    own_rate = phase.policy_learning_rate or phase.learning_rate
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
        {"params": learned, "weight_decay": 0.0, "lr": own_rate},
    ]
    return [group for group in groups if group["params"]]
