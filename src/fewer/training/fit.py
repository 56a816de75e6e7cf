"""`fit`: a dense fine-tune if needed, then the phases of a method; resumable after a kill."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from fewer._files.disk import read_json, write_json, writing
from fewer._files.locking import lock_folder
from fewer._validation.settings import checked, settings, validate
from fewer._validation.types import Count, NonNegative, Probability, Seed
from fewer.core.phase import Phase
from fewer.core.policy import Dense, Inherits, Method, Policy
from fewer.hf.attach import attach, attachment, is_attached, running
from fewer.hf.attachment import Attachment
from fewer.hf.checkpoint import load, save
from fewer.hf.side_file import method_to
from fewer.tasks.rows import data_hash
from fewer.training.calibration import calibrate, collator_for, draw_sample
from fewer.training.checkpoints import is_whole, newest_whole, weights_hash, write_manifest
from fewer.training.device import training_device
from fewer.training.precision import Precision, choose
from fewer.training.processes import Processes
from fewer.training.qa_collator import TAUGHT
from fewer.training.trainer import PhaseTrainer, training_only

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Schedule", "dense_phase", "fit", "open_run", "refuse_run", "unwrap_autocast"]

_FORWARD_NAMES = ("forward", "_original_forward")
_LOG = logging.getLogger("fewer")


@settings
class Schedule:
    """Training settings that all phases of all methods share."""

    batch_size: Count = 32  # texts that each device reads at once
    gradient_accumulation_steps: Count = 1  # such batches of a step
    seed: Seed = 42
    precision: Precision = "auto"
    weight_decay: NonNegative = 0.01
    warmup: Probability = 0.06  # fraction of a phase's steps
    dropout: Probability | None = None  # None: as in the model; 0 saves some time on a CPU
    save_every: Count = 500  # steps between checkpoints
    log_every: Count = 50


def _describe(schedule: Schedule) -> dict[str, Any]:
    """Describe a schedule as runs that were begun before it could accumulate did."""
    values = asdict(schedule)
    if schedule.gradient_accumulation_steps == 1:
        del values["gradient_accumulation_steps"]
    return values


def _check_phase(phase: Phase) -> None:
    """Raise `ValueError` for epochs or learning rates outside their range."""
    setting = phase.policy_learning_rate
    policy_rates = setting if isinstance(setting, tuple) else (setting,)
    values = {"epochs": (phase.epochs,), "learning_rate": (phase.learning_rate, *policy_rates)}
    for name, numbers in values.items():
        for value in numbers:
            validate(NonNegative | None, value, f"{name} of the phase {phase.name!r}")


@checked
def dense_phase(epochs: NonNegative = 3.0, learning_rate: NonNegative = 3e-5) -> Phase:
    """Return the dense fine-tune that a model with a new head needs first.

    Raises `ValueError` for epochs or a learning rate that are negative or not finite.
    """
    return Phase("dense", "compact", "all", epochs, learning_rate)


def fit(
    model: PreTrainedModel,
    method: Method,
    train: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    dense: Phase | None = None,
    phases: Sequence[Phase] | None = None,
    schedule: Schedule | None = None,
    resume: bool = False,
) -> PreTrainedModel:
    """Train `model` for `method` on encoded rows and return it attached, in eval mode.

    The model is saved in `output_dir/model`. Early exits are calibrated on held-out rows: at most
    512, and at most a tenth of all rows.

    `train` has the columns that the `encode` of a task returns (input_ids, attention_mask, labels
    or positions, length; not padded). `dense` (for a new head) is trained first, then `phases` (by
    default those of the method). Each phase has its own folder, so `resume=True` continues after a
    kill from the newest complete checkpoint. A model trained for the first method of a stack (LTP,
    for a Magic Pyramid with the same LTP) keeps its learned parameters: `dense` and the phases of
    that method are skipped. Weights in half precision become float32.

    Raises `ValueError` for an empty data set, for an `output_dir` with another run, and for one
    with this run unless `resume` is true.
    """
    schedule = schedule or Schedule()
    folder = Path(output_dir)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"model must be a transformers model; got a {type(model).__name__}. Merge adapters "
            "first: model.merge_and_unload()."
        )
    _check_rows(train)
    if model.dtype in (torch.float16, torch.bfloat16):  # in them small updates round to none
        name = str(model.dtype).removeprefix("torch.")
        _LOG.info("the weights are %s: trained and saved as float32", name)
        model.float()
    if is_attached(model):  # a certificate is about the weights as they were
        attached = attachment(model)
        attached.settings = replace(attached.settings, certificate=None)
    stages = _list_stages(model, method, dense, method.phases() if phases is None else phases)
    for _, phase in stages:
        _check_phase(phase)
    run = {
        "method": method_to(method),
        "phases": [asdict(phase) for _, phase in stages],
        "rows": len(train),
        "data": data_hash(train),
        "schedule": _describe(schedule),
        "weights": weights_hash(model),
    }
    hold_out = any(phase.holds_out for _, phase in stages)
    processes = Processes(training_device())
    with processes.only_main(lock_folder(folder)):
        with processes.main_writes() as writes:
            if writes:
                open_run(folder, run, resume)
        for number, (stage_method, phase) in enumerate(stages):
            phase_folder = folder / f"{number}-{phase.name}"
            if is_whole(phase_folder / "model"):
                model = _load_phase(phase_folder / "model", model)
                continue
            _LOG.info("phase %d of %d: %s", number + 1, len(stages), phase.name)
            set_seed((schedule.seed + number) % 2**32)
            _ensure_attached(model, stage_method)
            rows = _split(train, phase, schedule.seed, hold_out=hold_out)
            steps = _count_steps(phase, schedule, len(train), processes)
            _train_phase(model, phase, rows, tokenizer, phase_folder, schedule, processes, steps)
            with processes.main_writes() as writes:
                if writes:
                    _save_with_manifest(model, tokenizer, phase_folder / "model")
                    for checkpoint in phase_folder.glob("checkpoint-*"):
                        shutil.rmtree(checkpoint)
        _ensure_attached(model, method)
        with processes.main_writes() as writes:
            if writes:
                _save_with_manifest(model, tokenizer, folder / "model")
    model.eval()
    return model


def _save_with_manifest(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Save a model with its tokenizer, and a manifest of both."""
    save(model, folder)
    with writing(folder):
        tokenizer.save_pretrained(folder)
    write_manifest(folder)


def _check_rows(train: object) -> None:
    """Raise unless `train` is a data set of encoded rows."""
    from datasets import Dataset

    remedy = (
        "Encode rows by their task: rows = Dataset.from_list(...) or fewer.tasks.read_rows(file); "
        "fewer.tasks.infer(rows).encode(rows, tokenizer, max_length=256)."
    )
    if not isinstance(train, Dataset):
        split = "Choose one split: data['train']. " if isinstance(train, dict) else ""
        raise TypeError(
            f"train must be a datasets.Dataset of encoded rows; got a {type(train).__name__}. "
            f"{split}{remedy}"
        )
    if len(train) == 0:
        raise ValueError(f"train must have rows; got none. {remedy}")
    missing = [name for name in ("input_ids", "attention_mask") if name not in train.column_names]
    if missing:
        raise ValueError(
            f"train must have the columns input_ids and attention_mask; got "
            f"{', '.join(train.column_names)}. {remedy}"
        )
    labels_column = train.with_format(None)["labels"][:] if "labels" in train.column_names else ()
    for row, value in enumerate(labels_column):
        labels = value if isinstance(value, list) else [value]
        if any(label is None or label != label for label in labels):  # NaN differs from itself
            raise ValueError(
                f"train, column 'labels', row {row} (the first is 0): a label must not be missing; "
                f"got {value!r:.60}. Mend or remove the row."
            )


def _train_phase(
    model: PreTrainedModel,
    phase: Phase,
    rows: tuple[Dataset, Dataset],
    tokenizer: Any,
    folder: Path,
    schedule: Schedule,
    processes: Processes,
    steps: int,
) -> None:
    train, sample = rows
    device = training_device()
    precision = choose(schedule.precision, device)
    collator = collator_for(model, tokenizer)
    checkpoint = newest_whole(folder)
    if phase.calibrate and checkpoint is None:
        calibrate(model, phase, sample, collator, first=True)
    if phase.epochs:
        trainer = PhaseTrainer(
            model=model,
            args=_make_arguments(phase, folder, schedule, precision, steps, device.type == "cpu"),
            train_dataset=train,
            data_collator=collator,
            phase=phase,
        )
        with (
            running(model, phase),
            training_only(model, phase),
            _set_dropout(model, schedule.dropout),
            unwrap_autocast(model),
        ):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if phase.calibrate:
        calibrate(model, phase, sample, collator, first=False)
        processes.share(attachment(model).policy)


@contextmanager
def _set_dropout(model: nn.Module, probability: float | None) -> Iterator[None]:
    """Set the probability of all dropout modules of the model inside the block."""
    modules = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    probabilities = [module.p for module in modules]
    for module in modules:
        module.p = module.p if probability is None else probability
    try:
        yield
    finally:
        for module, p in zip(modules, probabilities, strict=True):
            module.p = p


@contextmanager
def unwrap_autocast(model: nn.Module) -> Iterator[None]:
    """Remove the autocast that accelerate leaves around `forward` after training.

    With it, inference would run in the precision of training, and copies of the model would call
    the `forward` of the original.
    """
    attributes = {name: model.__dict__[name] for name in _FORWARD_NAMES if name in model.__dict__}
    try:
        yield
    finally:
        for name in _FORWARD_NAMES:
            model.__dict__.pop(name, None)
        model.__dict__.update(attributes)


def _make_arguments(
    phase: Phase, folder: Path, schedule: Schedule, precision: str, steps: int, cpu: bool
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=phase.learning_rate,
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.gradient_accumulation_steps,
        warmup_steps=round(schedule.warmup * steps),
        weight_decay=schedule.weight_decay,
        seed=schedule.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        label_names=list(TAUGHT),  # other columns do not reach the batch
        save_steps=schedule.save_every,
        save_total_limit=2,
        logging_steps=schedule.log_every,
        report_to="none",
        disable_tqdm=False,
        use_cpu=cpu,
        ddp_find_unused_parameters=False,  # the loss of a method is no output of the model
    )


def _count_steps(phase: Phase, schedule: Schedule, rows: int, processes: Processes) -> int:
    """Return the steps of a phase, the same for all methods: rows that are held out count too."""
    texts = processes.count * schedule.batch_size * schedule.gradient_accumulation_steps
    return max(1, round(phase.epochs * rows / texts))


def _split(train: Dataset, phase: Phase, seed: int, *, hold_out: bool) -> tuple[Dataset, Dataset]:
    """Draw the sample for calibration; without `hold_out` it stays among the training rows."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    sample = draw_sample(train, order, phase)
    held_out_rows = min(len(sample), len(train) // 10)
    if hold_out and held_out_rows and not phase.reads_once:  # too few rows: none is held out
        return train.select(order[held_out_rows:]), train.select(order[:held_out_rows])
    return train, sample


def _list_stages(
    model: PreTrainedModel, method: Method, dense: Phase | None, phases: Sequence[Phase]
) -> list[tuple[Method, Phase]]:
    """List the methods and phases to train, without those that the model was trained for."""
    learned_parts: tuple[tuple[int, ...], ...] = ()
    if is_attached(model) and attachment(model).method != method:
        attached = attachment(model)
        learned_parts = _inherit(method.build(attached.spec), attached)
    if learned_parts:
        _LOG.info("kept the learned parameters of %s", attachment(model).method)
        dense = None
    stages: list[tuple[Method, Phase]] = [(Dense(), dense)] if dense is not None else []
    return stages + [(method, phase) for phase in phases if phase.part[:1] not in learned_parts]


def _ensure_attached(model: PreTrainedModel, method: Method) -> None:
    """Attach a method unless it is attached; kernel and protected ids stay as they were.

    Parameters that were learned for a part of the method are kept.
    """
    if not is_attached(model):
        attach(model, method)
        return
    attached = attachment(model)
    if attached.method != method:
        attach(model, method, kernel=attached.settings.kernel, protect=attached.settings.protect)
        _inherit(attachment(model).policy, attached)


def _inherit(policy: Policy, trained: Attachment) -> tuple[tuple[int, ...], ...]:
    """Take over what was learned, if the policy can; return the parts that need no training now."""
    if not isinstance(policy, Inherits):
        return ()
    return policy.inherit(trained.method, trained.policy)


def _load_phase(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Load the model of a finished phase; device and frozen parameters are those of `model`."""
    phase_model = load(folder, precision=None)
    frozen_names = {
        name for name, parameter in model.named_parameters() if not parameter.requires_grad
    }
    for name, parameter in phase_model.named_parameters():
        parameter.requires_grad_(name not in frozen_names)
    nn.Module.to(phase_model, model.device)
    return phase_model


def refuse_run(folder: Path, resume: bool, name: str = "fit.json") -> None:
    """Raise `ValueError` for a folder that holds a run, unless that is resumed."""
    if not resume and (folder / name).exists():
        raise ValueError(
            f"output_dir must be without a run unless it is resumed; got {folder}, which holds "
            "one. Pass resume=True (--resume) to continue it, or another output_dir (--output)."
        )


def open_run(folder: Path, run: dict[str, Any], resume: bool, name: str = "fit.json") -> None:
    """Write the settings of a run into its folder, or check that they equal those in it."""
    run_file = folder / name
    content = json.loads(json.dumps(run))
    if not run_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(content, run_file, indent=1)  # atomic: a kill leaves a complete file or none
        return
    refuse_run(folder, resume, name)
    saved = read_json(run_file)
    differing = sorted(key for key in content if saved.get(key) != content[key])
    if differing:
        raise ValueError(
            f"output_dir must hold the same run for resume=True; got {folder}, whose "
            f"{', '.join(differing)} differ. Resume with the same settings, data and base model, "
            "loaded anew."
        )
