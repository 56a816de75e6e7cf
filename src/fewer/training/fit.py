"""`fit`: a dense fine-tune where it is needed, then a method's phases, resumable after a kill."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from fewer.core.policy import Dense, Method, Phase
from fewer.hf.attach import attach, attachment, is_attached
from fewer.hf.checkpoint import load, save
from fewer.hf.config import method_to
from fewer.tasks.rows import data_hash
from fewer.training.calibration import SAMPLE_TEXTS, calibrate, collator_for, sample_size
from fewer.training.checkpoints import is_whole, newest_whole, seal, weights_hash
from fewer.training.device import training_device
from fewer.training.precision import Precision, choose
from fewer.training.qa_collator import TAUGHT
from fewer.training.trainer import PhaseTrainer, training_only

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Schedule", "check_schedule", "claim", "dense_phase", "fit", "own_forward"]

_WRAPPED = ("forward", "_original_forward")
_LOG = logging.getLogger("fewer")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to train, whatever the method: the same for every phase."""

    batch_size: int = 32
    seed: int = 42
    precision: Precision = "auto"
    weight_decay: float = 0.01
    warmup: float = 0.06  # share of a phase's steps
    dropout: float | None = None  # None: the model's own; 0 saves some time on a CPU
    save_every: int = 500  # steps between checkpoints
    log_every: int = 50

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("batch_size", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 1 or more")
        check_schedule(self, ("weight_decay",))
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a probability in [0, 1); got {self.dropout}.")


def check_schedule(schedule: Any, rates: Sequence[str]) -> None:
    """Raise `ValueError` for a warmup, a seed, or one of the named rates outside its range."""
    if not 0 <= schedule.warmup < 1:
        raise ValueError(f"warmup is {schedule.warmup}, wanted a share of the steps in [0, 1)")
    if not 0 <= schedule.seed < 2**32:  # NumPy takes no other
        raise ValueError(f"seed must be from 0 to 2**32 - 1; got {schedule.seed}.")
    for name in rates:
        value = getattr(schedule, name)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite, 0 or more; got {value}.")


def _check_phase(phase: Phase) -> None:
    """Raise `ValueError` for epochs or learning rates that cannot be trained with."""
    rates = phase.policy_learning_rate
    others = rates if isinstance(rates, tuple) else (rates,)
    values = {"epochs": (phase.epochs,), "learning_rate": (phase.learning_rate, *others)}
    for name, given in values.items():
        for value in given:
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(
                    f"{name} of the phase {phase.name!r} must be finite, 0 or more; got {value}."
                )


def dense_phase(epochs: float = 3.0, learning_rate: float = 3e-5) -> Phase:
    """Return the ordinary fine-tune that a model with a new head needs first.

    Raises `ValueError` for epochs or a learning rate that are negative or no number.
    """
    phase = Phase("dense", "compact", "all", epochs, learning_rate)
    _check_phase(phase)
    return phase


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

    Saved under `output_dir/model`. Early exits are fitted to rows that nothing trains on: up to
    512, a tenth at most, are held out for them.

    `train` has the columns that the `encode` of a task gives (input_ids, attention_mask, labels or
    positions, length; not padded). `dense` is trained first when given (a new head); then `phases`
    (default: the method's own). Each phase is kept whole in a folder of its own, so `resume=True`
    goes on after a kill from the newest whole checkpoint. A model that was trained for the first
    method of a stack (LTP, for a Magic Pyramid with that very LTP) keeps what it learned: the
    phases of that method are left out, and `dense` too. Raises `ValueError` for an empty data set,
    and for an `output_dir` that holds another run, or one that was not asked to be resumed.
    """
    schedule = schedule or Schedule()
    folder = Path(output_dir)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"got a {type(model).__name__}, wanted a transformers model; merge adapters first "
            "(model.merge_and_unload())"
        )
    _check_rows(train)
    stages = _stages(model, method, dense, method.phases() if phases is None else phases)
    for _, phase in stages:
        _check_phase(phase)
    run = {
        "method": method_to(method),
        "phases": [asdict(phase) for _, phase in stages],
        "rows": len(train),
        "data": data_hash(train),
        "schedule": asdict(schedule),
        "weights": weights_hash(model),
    }
    rows = _split(train, any(phase.holds_out for _, phase in stages), schedule.seed)
    with lock_folder(folder):
        claim(folder, run, resume)
        for number, (own, phase) in enumerate(stages):
            place = folder / f"{number}-{phase.name}"
            if is_whole(place / "model"):
                model = _taken_up(place / "model", model)
                continue
            _LOG.info("phase %d of %d: %s", number + 1, len(stages), phase.name)
            set_seed((schedule.seed + number) % 2**32)
            _put_on(model, own)
            _run(model, phase, rows, tokenizer, place, schedule)
            _save_whole(model, tokenizer, place / "model")
            for checkpoint in place.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        _put_on(model, method)
        _save_whole(model, tokenizer, folder / "model")
    model.eval()
    return model


def _save_whole(model: PreTrainedModel, tokenizer: Any, place: Path) -> None:
    """Save a model with its tokenizer, and a manifest of both."""
    save(model, place)
    with writing(place):
        tokenizer.save_pretrained(place)
    seal(place)


def _check_rows(train: object) -> None:
    """Raise for what is no data set of encoded rows."""
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


def _run(
    model: PreTrainedModel,
    phase: Phase,
    rows: tuple[Dataset, Dataset],
    tokenizer: Any,
    place: Path,
    schedule: Schedule,
) -> None:
    own, (train, sample) = attachment(model), rows
    device = training_device()
    precision = choose(schedule.precision, device)
    collator = collator_for(model, tokenizer)
    unfinished = newest_whole(place)
    with own.policy.during(phase):
        if phase.calibrate and unfinished is None:
            calibrate(model, phase, sample, collator, first=True)
        own.apply_in_training = phase.apply
        trainer = PhaseTrainer(
            model=model,
            args=_arguments(phase, place, schedule, precision, len(train), device.type == "cpu"),
            train_dataset=train,
            data_collator=collator,
            phase=phase,
        )
        with training_only(model, phase), _dropout(model, schedule.dropout), own_forward(model):
            trainer.train(resume_from_checkpoint=str(unfinished) if unfinished else None)
        own.apply_in_training = "compact"
        if phase.calibrate:
            calibrate(model, phase, sample, collator, first=False)


@contextmanager
def _dropout(model: nn.Module, probability: float | None) -> Iterator[None]:
    """Set every dropout of the model inside the block; layers read attention's from modules too."""
    modules = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    before = [module.p for module in modules]
    for module in modules:
        module.p = module.p if probability is None else probability
    try:
        yield
    finally:
        for module, p in zip(modules, before, strict=True):
            module.p = p


@contextmanager
def own_forward(model: nn.Module) -> Iterator[None]:
    """Take off the autocast that accelerate leaves around `forward` after training.

    It would run inference in the training's precision, and copies of the model would call the
    original through it.
    """
    before = {name: model.__dict__[name] for name in _WRAPPED if name in model.__dict__}
    try:
        yield
    finally:
        for name in _WRAPPED:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)


def _arguments(
    phase: Phase, place: Path, schedule: Schedule, precision: str, rows: int, cpu: bool
) -> TrainingArguments:
    steps = max(1, round(phase.epochs * rows / schedule.batch_size))
    return TrainingArguments(
        output_dir=str(place),
        max_steps=steps,
        learning_rate=phase.learning_rate,
        per_device_train_batch_size=schedule.batch_size,
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
    )


def _split(train: Dataset, hold_out: bool, seed: int) -> tuple[Dataset, Dataset]:
    """Draw the sample that policies are fitted to, with the seed; training rows unless held out."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    most = sample_size([len(ids) for ids in train.select(order[:SAMPLE_TEXTS])["input_ids"]])
    size = min(most, len(train) // 10)
    if hold_out and size:  # of a handful of rows none can be spared
        return train.select(order[size:]), train.select(order[:size])
    return train, train.select(order[:most])


def _stages(
    model: PreTrainedModel, method: Method, dense: Phase | None, phases: Sequence[Phase]
) -> list[tuple[Method, Phase]]:
    """List what to train for which method, without what the model has learned already."""
    known: tuple[tuple[int, ...], ...] = ()
    if is_attached(model) and attachment(model).method != method:
        own = attachment(model)
        known = method.build(own.shape).inherit(own.method, own.policy)
    if known:
        _LOG.info("kept what the model learned for %s", attachment(model).method)
        dense = None
    stages: list[tuple[Method, Phase]] = [(Dense(), dense)] if dense is not None else []
    return stages + [(method, phase) for phase in phases if phase.part[:1] not in known]


def _put_on(model: PreTrainedModel, method: Method) -> None:
    """Attach a method unless it is; kernel and protected ids stay as they were.

    What the model learned for a part of the method stays learned.
    """
    if not is_attached(model):
        attach(model, method)
        return
    before = attachment(model)
    if before.method != method:
        attach(model, method, kernel=before.settings.kernel, protect=before.settings.protect)
        attachment(model).policy.inherit(before.method, before.policy)


def _taken_up(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Load what a finished phase left; device and frozen parameters are those of `model`."""
    left = load(folder, precision=None)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, parameter in left.named_parameters():
        parameter.requires_grad_(name not in frozen)
    nn.Module.to(left, model.device)
    return left


def claim(folder: Path, run: dict[str, Any], resume: bool) -> None:
    """Write what this run is into its folder, or check that the folder holds this very run."""
    note = folder / "fit.json"
    content = json.loads(json.dumps(run))
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(content, note, indent=1)  # a kill leaves the whole note or none
        return
    if not resume:
        raise ValueError(
            f"{folder} already holds a run; pass resume=True to go on with it, or another "
            "output_dir"
        )
    held = read_json(note)
    changed = sorted(key for key in content if held.get(key) != content[key])
    if changed:
        raise ValueError(
            f"{folder} holds another run: {', '.join(changed)} differ; resume with the same "
            "settings, data and base model, loaded anew"
        )
