"""Go on with masked-language modelling: what a model learns its new positions, or pattern, by.

As Longformer was adapted (https://arxiv.org/abs/2004.05150): 15 % of the tokens are to be told; of
these 80 % read as [MASK], 10 % as another token, 10 % as they are. Texts are joined, with a
separator between them, and cut into pieces as long as the model reads.
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
from fewer.hf.attach import attachment, evaluating, is_attached, longest, parts
from fewer.hf.pretrained import load_pretrained, local_folder
from fewer.tasks.rows import data_hash
from fewer.tasks.texts import BATCH_TEXTS, check_strings, clean
from fewer.training.checkpoints import newest_whole, weights_hash
from fewer.training.device import training_device
from fewer.training.fit import check_schedule, claim, own_forward
from fewer.training.precision import Precision, choose
from fewer.training.trainer import StrictTrainer

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Adapted", "MaskedSchedule", "adapt"]

MASKED = 0.15  # of the tokens
PASS_TOKENS = 8192  # read in one pass; a step of more takes several
MOST_HELD_OUT = 64  # pieces that are read before and after training
_LOG = logging.getLogger("fewer")


@dataclass(frozen=True, kw_only=True)
class MaskedSchedule:
    """How long and how fast to adapt."""

    steps: int = 1000
    batch_tokens: int = 32_768  # a step reads at most so many, but one piece at least
    learning_rate: float = 3e-5
    warmup: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    seed: int = 42
    precision: Precision = "auto"
    save_every: int = 500  # steps between checkpoints

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("steps", "batch_tokens", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 1 or more")
        check_schedule(self, ("learning_rate", "weight_decay"))


@dataclass(frozen=True)
class Adapted:
    """What came of it: bits a masked token of held-out texts, less is better."""

    before: float
    after: float
    told: int  # held-out tokens that were masked, the same before and after
    pieces: int  # to train on
    new_head: bool  # whether the head was made for this, so that `before` says little


def adapt(
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    schedule: MaskedSchedule | None = None,
    head_of: str | Path | None = None,
    resume: bool = False,
) -> Adapted:
    """Train the encoder of `model` on masked tokens of texts, in place, with what is attached.

    A model with a head for it trains that too. For any other one is built around its encoder, and
    not kept: from the checkpoint `head_of` (a folder or hub name), or, where there is none, new,
    its decoder tied to the word embeddings. Pieces are as long as model and tokenizer say. One text
    in twenty is held out, 512 at most, to measure with. Checkpoints go to `output_dir`, for
    `resume=True` to go on from after a kill (with other masks: one batch is made ahead).

    Raises `ValueError` for fewer than two texts, or too short ones, and for an `output_dir` that
    holds another run, or one that was not asked to be resumed.
    """
    schedule = schedule or MaskedSchedule()
    length = longest(model, None, tokenizer.model_max_length)
    check_strings(texts, "texts")
    held_out, kept = _split(texts, schedule.seed)
    test = _pieces(held_out, tokenizer, length)
    test, train = (
        test.select(range(min(len(test), MOST_HELD_OUT))),
        _pieces(kept, tokenizer, length),
    )
    run = {
        "schedule": asdict(schedule),
        "max_length": length,
        "texts": _fingerprint(texts),
        "weights": weights_hash(model),
    }
    arguments = _arguments(schedule, Path(output_dir), length)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    folder = Path(output_dir)
    with lock_folder(folder):
        claim(folder, run, resume)
        set_seed(schedule.seed)
        whole, new_head = _with_head(model, head_of)
        trainer = StrictTrainer(
            model=whole, args=arguments, train_dataset=train, data_collator=collator
        )
        trainer.model_accepts_loss_kwargs = False  # losses are means over the tokens of a pass
        before, told = _bits(whole, test, tokenizer, schedule.seed)
        unfinished = newest_whole(folder)
        with own_forward(whole):
            trainer.train(resume_from_checkpoint=str(unfinished) if unfinished else None)
        after, _ = _bits(whole, test, tokenizer, schedule.seed)
    if is_attached(model):
        attachment(model).has_head = parts(model)[0] is not parts(model)[1]
    model.eval()
    return Adapted(before, after, told, len(train), new_head)


def _with_head(
    model: PreTrainedModel, checkpoint: str | Path | None
) -> tuple[PreTrainedModel, bool]:
    """Return a model of masked tokens around the encoder, and tell whether its head is new."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    whole, encoder = parts(model)
    kind: Any = MODEL_FOR_MASKED_LM_MAPPING[type(encoder.config)]
    if isinstance(whole, kind):
        return whole, False
    if checkpoint is None:
        around, new = kind(encoder.config), True
    else:
        around, report = load_pretrained(kind, local_folder(checkpoint))
        inside = around.base_model_prefix + "."
        new = not all(key.startswith(inside) for key in report["missing_keys"])
    setattr(around, around.base_model_prefix, encoder)
    if is_attached(encoder):
        attachment(encoder).has_head = True
    around.config = encoder.config
    around.tie_weights()
    if new:
        around.get_output_embeddings().weight = encoder.get_input_embeddings().weight
        _LOG.info(
            "no head of masked-language modelling is there: a new one is trained, tied to the word "
            "embeddings"
        )
    return around.to(device=encoder.device, dtype=encoder.dtype), new


def _split(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Draw the texts to hold out; the others keep their order."""
    if len(texts) < 2:
        raise ValueError(f"got {len(texts)} texts, wanted 2 or more: one in twenty is held out")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = set(order[: min(max(1, len(texts) // 20), 512)])
    held_out = [text for row, text in enumerate(texts) if row in drawn]
    return held_out, [text for row, text in enumerate(texts) if row not in drawn]


def _pieces(texts: Sequence[str], tokenizer: Any, length: int) -> Dataset:
    """Join texts, cut them into pieces of `length` tokens (the last is shorter), without padding.

    Raises `ValueError` for texts without tokens, a `length` without room for any, and for a
    tokenizer that marks no ends.
    """
    from datasets import Dataset

    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    if start is None or end is None:
        raise ValueError(f"{type(tokenizer).__name__} has no [CLS] or no [SEP]; wanted both")
    joined: list[int] = []
    for first in range(0, len(texts), BATCH_TEXTS):
        batch = [clean(text) for text in texts[first : first + BATCH_TEXTS]]
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            joined += [end, *ids] if joined and ids else ids
    if not joined:
        raise ValueError(f"{len(texts)} texts hold no token; wanted texts with words")
    inner = length - 2
    if inner < 1:
        raise ValueError(
            f"pieces of {length} tokens hold no text between [CLS] and [SEP]; raise "
            "tokenizer.model_max_length"
        )
    cuts = (joined[at : at + inner] for at in range(0, len(joined), inner))
    return Dataset.from_dict({"input_ids": [[start, *cut, end] for cut in cuts]})


def _fingerprint(texts: Sequence[str]) -> str:
    from datasets import Dataset

    return data_hash(Dataset.from_dict({"text": [clean(text) for text in texts]}))


@torch.inference_mode()
def _bits(
    whole: PreTrainedModel, pieces: Dataset, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[float, int]:
    """Measure the mean loss of a masked token in bits, and count these; the seed draws them."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=seed)
    at_once = max(1, PASS_TOKENS // len(pieces[0]["input_ids"]))
    total, told = 0.0, 0
    with evaluating(whole) as reader:
        for start in range(0, len(pieces), at_once):
            rows = pieces[start : start + at_once]["input_ids"]
            batch = collator([{"input_ids": ids} for ids in rows])
            count = int((batch["labels"] >= 0).sum())
            if count:
                loss = reader(**batch.to(whole.device)).loss
                total, told = total + float(loss) * count, told + count
    if not told:
        raise ValueError("the texts that are held out are too short to measure with; give more")
    return total / told / math.log(2), told


def _arguments(schedule: MaskedSchedule, place: Path, length: int) -> TrainingArguments:
    device = training_device()
    precision = choose(schedule.precision, device)
    pieces = max(1, schedule.batch_tokens // length)
    at_once = min(pieces, max(1, PASS_TOKENS // length))
    return TrainingArguments(
        output_dir=str(place),
        max_steps=schedule.steps,
        learning_rate=schedule.learning_rate,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=pieces // at_once,
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
