"""The lower layers of a model that reads question and passage apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewer.core.apply import APPLIES
from fewer.core.encode import read_through
from fewer.hf.attach import attachment, evaluating, parts
from fewer.hf.config import method_to
from fewer.hf.packing import pack
from fewer.kernels import kernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_independence", "fingerprint", "lower_layers", "read_lower"]

Left = tuple[Tensor, Tensor]  # places in the second text, states of those tokens
_TOLERANCE = 0.02  # of the tokens; rounding may turn a decision that was close


def lower_layers(model: PreTrainedModel) -> int:
    """Count the layers, from the first on, in which question and passage are read apart.

    Raises `ValueError` for a model that reads them together, or by blocks of columns, which the
    question shifts, and for one that does not answer questions.
    """
    own = attachment(model)
    layers = range(own.shape.num_layers)
    policy = own.policy
    lower = len(list(takewhile(lambda layer: policy.layout(layer).split_pairs, layers)))
    if not (lower and policy.inputs.restarts_positions):
        raise ValueError(
            f"{own.method} reads question and passage together from the first layer on, so nothing "
            "of a passage can be kept; wanted fewer.methods.attention.DeFormer, alone or in a Stack"
        )
    for layer in range(lower):
        pattern = own.shape.layers[layer].pattern or policy.layout(layer).pattern
        if pattern is not None and not pattern.slides:
            raise ValueError(
                f"layer {layer} reads by blocks of {pattern.block} columns, which another question "
                "shifts, so nothing of a passage can be kept; wanted a window "
                "(fewer.methods.attention.Longformer), or full attention"
            )
    if own.policy.answers:
        raise ValueError(
            f"{own.method} may answer before the passage is read, so nothing can be kept for later "
            "questions; wanted fewer.methods.attention.DeFormer without early exits"
        )
    if own.shape.answers != "span":
        raise ValueError(
            f"{type(model).__name__} does not find answers in passages; wanted a model of question "
            "answering, such as AutoModelForQuestionAnswering loads"
        )
    return lower


def read_lower(model: PreTrainedModel, batch: Mapping[str, Tensor], lower: int) -> list[Left]:
    """Read a batch of pairs through the lower layers: what is left of each second text."""
    with evaluating(model) as reader, torch.inference_mode():
        own, encoder = attachment(reader), parts(reader)[1]
        backbone = own.backbone(encoder)
        tokens = pack(
            backbone,
            batch["input_ids"],
            None,
            batch["attention_mask"],
            batch.get("token_type_ids"),
            None,
            own.settings.protect,
            protects_first_text=own.protects_first_text,
            restarts_positions=own.policy.inputs.restarts_positions,
        )
        assert tokens.second is not None
        firsts = tokens.count((~tokens.second).float()).long()
        left = read_through(
            backbone.layers,
            own.policy,
            tokens,
            apply=APPLIES["compact"],
            attend=kernel(own.settings.kernel),
            stop=lower,
        )
        assert left.second is not None
        left = left.take(left.second.nonzero().squeeze(1))
        places = left.slot % left.grid[1] - firsts[left.sequence]
        sizes = left.cu.diff().tolist()
        states = left.hidden.float().cpu().split(sizes)
    return list(zip(places.cpu().split(sizes), states, strict=True))


def check_independence(method: object, empty: Sequence[Left], asked: Sequence[Left]) -> None:
    """Compare what is left of passages behind two questions, which must be the same.

    Raises `ValueError` if a method lets go of other tokens for another question.
    """
    changed = kept = 0
    for (places, _), (others, _) in zip(empty, asked, strict=True):
        both = int(torch.isin(places, others).sum())
        changed += len(places) + len(others) - 2 * both
        kept += len(places) + len(others)
    if changed > _TOLERANCE * kept:
        raise ValueError(
            f"{method} lets go of other tokens of a passage when the question is another "
            f"({changed} of {kept} differ), so what is left cannot be kept. Blocks, and scores by "
            "the length of the pair, count the question; wanted a method that does not"
        )


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lower: int) -> str:
    """Hash all that a passage's states come from: SHA-256, in hex digits.

    That is the embeddings and lower layers, the method, their number, and the tokenizer.
    """
    own, encoder = attachment(model), parts(model)[1]
    digest = hashlib.sha256()
    told = {
        "architecture": type(encoder).__name__,
        "heads": own.shape.heads,
        "method": method_to(own.method),
        "protect": own.settings.protect,
        "lower": lower,
        "tokenizer": _rules(tokenizer),
    }
    digest.update(json.dumps(told, sort_keys=True).encode())
    upper = _upper(encoder, own.shape.num_layers, lower)
    for name, tensor in sorted(encoder.state_dict().items()):
        if not name.startswith(upper):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _upper(encoder: nn.Module, layers: int, lower: int) -> tuple[str, ...]:
    """Name the upper layers, as their tensors begin; shared layers have no names of their own."""
    return tuple(
        f"{name}.{number}."
        for name, part in encoder.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == layers and not name.startswith("fewer.")
        for number in range(lower, layers)
    )


def _rules(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Describe a tokenizer, but not how it was last told to cut and pad."""
    backend: Any = tokenizer.backend_tokenizer
    rules: dict[str, Any] = json.loads(backend.to_str())
    return rules | {"truncation": None, "padding": None}
