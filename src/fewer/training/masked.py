"""Continued masked-language modelling, to adapt a model to new positions or a new pattern.

As Longformer was adapted (https://arxiv.org/abs/2004.05150): 15 % of the tokens are predicted; 80 %
of these become [MASK], 10 % another token, 10 % stay. Texts are joined, with a separator between
them, and cut into pieces of the model's maximum length.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from fewer._files.locking import lock_folder
from fewer._validation.settings import settings
from fewer._validation.types import Count, NonNegative, Probability, Seed
from fewer.hf.attach import attachment, evaluating, is_attached, parts
from fewer.hf.max_length import resolve_max_length
from fewer.hf.pretrained import load_pretrained, local_folder
from fewer.hf.task_heads import reads_every_token
from fewer.tasks.rows import data_hash
from fewer.tasks.texts import BATCH_TEXTS, check_strings, clean
from fewer.training.checkpoints import newest_whole, weights_hash
from fewer.training.device import training_device
from fewer.training.fit import open_run, unwrap_autocast
from fewer.training.precision import Precision, choose
from fewer.training.trainer import StrictTrainer

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["AdaptationResult", "MaskedSchedule", "adapt"]

MASKED = 0.15  # fraction of the tokens
PASS_TOKENS = 8192  # of one forward pass; a larger step accumulates gradients
MAX_TEST_PIECES = 64  # held-out pieces, for the loss before and after training
_LOG = logging.getLogger("fewer")


@settings
class MaskedSchedule:
    """Number of steps, batch size and learning rate of the adaptation."""

    steps: Count = 1000
    batch_tokens: Count = 32_768  # of a step at most, but at least one piece
    learning_rate: NonNegative = 3e-5
    warmup: Probability = 0.06  # fraction of the steps
    weight_decay: NonNegative = 0.01
    seed: Seed = 42
    precision: Precision = "auto"
    save_every: Count = 500  # steps between checkpoints


@dataclass(frozen=True)
class AdaptationResult:
    """Bits per masked token of held-out texts, before and after; lower is better."""

    before: float
    after: float
    masked_tokens: int  # of the held-out texts, the same before and after
    pieces: int  # of the training texts
    new_head: bool  # whether the head was new, which makes `before` high


def adapt(
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    schedule: MaskedSchedule | None = None,
    head_of: str | Path | None = None,
    resume: bool = False,
) -> AdaptationResult:
    """Train the encoder of `model` on masked tokens of texts, in place, with its policy.

    The head of a masked-language model is trained too. Any other model gets one for the training:
    from the checkpoint `head_of` (a folder or hub name), or else a new one, its decoder tied to the
    word embeddings. The maximum lengths of model and tokenizer set the length of pieces. One text
    in twenty, at most 512, is held out for the loss. Checkpoints go to `output_dir`; `resume=True`
    continues after a kill (with other masks, as one batch is prefetched).

    Raises `ValueError` for fewer than two texts, for too short ones, for an `output_dir` with
    another run, and for one with this run unless `resume` is true.
    """
    schedule = schedule or MaskedSchedule()
    length = resolve_max_length(model, None, tokenizer.model_max_length)
    check_strings(texts, "texts")
    test_texts, train_texts = _split(texts, schedule.seed)
    test = _cut_pieces(test_texts, tokenizer, length)
    test = test.select(range(min(len(test), MAX_TEST_PIECES)))
    train = _cut_pieces(train_texts, tokenizer, length)
    run = {
        "schedule": asdict(schedule),
        "max_length": length,
        "texts": _hash_texts(texts),
        "weights": weights_hash(model),
    }
    arguments = _make_arguments(schedule, Path(output_dir), length)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    folder = Path(output_dir)
    with lock_folder(folder):
        open_run(folder, run, resume)
        set_seed(schedule.seed)
        masked_model, new_head = _add_head(model, head_of)
        trainer = StrictTrainer(
            model=masked_model, args=arguments, train_dataset=train, data_collator=collator
        )
        trainer.model_accepts_loss_kwargs = False  # losses are means over the tokens of a pass
        before, masked_tokens = _measure_bits(masked_model, test, tokenizer, schedule.seed)
        checkpoint = newest_whole(folder)
        with unwrap_autocast(masked_model):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        after, _ = _measure_bits(masked_model, test, tokenizer, schedule.seed)
    if is_attached(model):
        attachment(model).reads_every_token = reads_every_token(*parts(model))
    model.eval()
    return AdaptationResult(before, after, masked_tokens, len(train), new_head)


def _add_head(
    model: PreTrainedModel, checkpoint: str | Path | None
) -> tuple[PreTrainedModel, bool]:
    """Return a masked-language model around the encoder, and whether its head is new."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    full_model, encoder = parts(model)
    model_class: Any = MODEL_FOR_MASKED_LM_MAPPING[type(encoder.config)]
    if isinstance(full_model, model_class):
        return full_model, False
    if checkpoint is None:
        masked_model, is_new = model_class(encoder.config), True
    else:
        masked_model, report = load_pretrained(model_class, local_folder(checkpoint))
        encoder_prefix = masked_model.base_model_prefix + "."
        is_new = not all(key.startswith(encoder_prefix) for key in report["missing_keys"])
    setattr(masked_model, masked_model.base_model_prefix, encoder)
    if is_attached(encoder):
        attachment(encoder).reads_every_token = False  # trained, and measured on the way
    masked_model.config = encoder.config
    masked_model.tie_weights()
    if is_new:
        masked_model.get_output_embeddings().weight = encoder.get_input_embeddings().weight
        _LOG.info(
            "the model has no head for masked-language modelling: a new one is trained, tied to "
            "the word embeddings"
        )
    return masked_model.to(device=encoder.device, dtype=encoder.dtype), is_new


def _split(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Draw the held-out texts; the rest keep their order."""
    if len(texts) < 2:
        raise ValueError(
            f"texts must be 2 or more, as one in twenty is held out; got {len(texts)}."
        )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    test_rows = set(order[: min(max(1, len(texts) // 20), 512)])
    test_texts = [text for row, text in enumerate(texts) if row in test_rows]
    return test_texts, [text for row, text in enumerate(texts) if row not in test_rows]


def _cut_pieces(texts: Sequence[str], tokenizer: Any, length: int) -> Dataset:
    """Join texts and cut them into pieces of `length` tokens (the last is shorter), not padded.

    Raises `ValueError` for texts without tokens, for a `length` without room for text, and for a
    tokenizer without [CLS] or [SEP].
    """
    from datasets import Dataset

    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    if start is None or end is None:
        raise ValueError(f"tokenizer must have [CLS] and [SEP]; got a {type(tokenizer).__name__}.")
    tokens: list[int] = []
    for row in range(0, len(texts), BATCH_TEXTS):
        batch = [clean(text) for text in texts[row : row + BATCH_TEXTS]]
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            tokens += [end, *ids] if tokens and ids else ids
    if not tokens:
        raise ValueError(f"texts must hold tokens; got {len(texts)} texts without any.")
    room = length - 2
    if room < 1:
        raise ValueError(
            "tokenizer.model_max_length must leave room for text between [CLS] and [SEP]; got "
            f"pieces of {length} tokens. Raise it."
        )
    pieces = (tokens[position : position + room] for position in range(0, len(tokens), room))
    return Dataset.from_dict({"input_ids": [[start, *piece, end] for piece in pieces]})


def _hash_texts(texts: Sequence[str]) -> str:
    from datasets import Dataset

    return data_hash(Dataset.from_dict({"text": [clean(text) for text in texts]}))


@torch.inference_mode()
def _measure_bits(
    model: PreTrainedModel, pieces: Dataset, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[float, int]:
    """Return the mean loss in bits and the number of masked tokens, which the seed draws."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=seed)
    batch_size = max(1, PASS_TOKENS // len(pieces[0]["input_ids"]))
    total, masked_tokens = 0.0, 0
    with evaluating(model) as eval_model:
        for start in range(0, len(pieces), batch_size):
            rows = pieces[start : start + batch_size]["input_ids"]
            batch = collator([{"input_ids": ids} for ids in rows])
            count = int((batch["labels"] >= 0).sum())
            if count:
                loss = eval_model(**batch.to(model.device)).loss
                total, masked_tokens = total + float(loss) * count, masked_tokens + count
    if not masked_tokens:
        raise ValueError(
            "texts must give masked tokens in the held-out part; got none. Give more texts."
        )
    return total / masked_tokens / math.log(2), masked_tokens


def _make_arguments(schedule: MaskedSchedule, folder: Path, length: int) -> TrainingArguments:
    device = training_device()
    precision = choose(schedule.precision, device)
    step_pieces = max(1, schedule.batch_tokens // length)
    batch_size = min(step_pieces, max(1, PASS_TOKENS // length))
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        learning_rate=schedule.learning_rate,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=step_pieces // batch_size,
        warmup_steps=round(schedule.warmup * schedule.steps),
        weight_decay=schedule.weight_decay,
        seed=schedule.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        save_steps=schedule.save_every,
        save_total_limit=2,
        logging_steps=50,
        report_to="none",
        disable_tqdm=False,
        use_cpu=device.type == "cpu",
    )
