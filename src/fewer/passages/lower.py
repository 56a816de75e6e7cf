"""The lower layers of a model that encodes question and passage separately."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewer.core.cost import Task
from fewer.core.encode import read_through
from fewer.core.phase import INFERENCE
from fewer.hf.attach import attachment, evaluating, parts
from fewer.hf.packing import pack
from fewer.hf.side_file import method_to
from fewer.kernels import kernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_independence", "fingerprint", "lower_layers", "read_lower"]

RemainingStates = tuple[Tensor, Tensor]  # indices in the second text, states of those tokens
_TOLERANCE = 0.02  # of the tokens; rounding may change a close decision


def lower_layers(model: PreTrainedModel) -> int:
    """Count the lower layers, in which question and passage are encoded separately.

    Raises `ValueError` for a model that encodes them together, or by blocks of columns, which the
    question shifts, and for a model without a span head.
    """
    attached = attachment(model)
    spec, policy = attached.spec, attached.policy
    layers = range(spec.num_layers)
    lower = len(list(takewhile(lambda layer: policy.layout(layer, INFERENCE).split_pairs, layers)))
    if not (lower and policy.inputs.restarts_positions):
        raise ValueError(
            "method must encode question and passage separately in the first layers; got "
            f"{attached.method}, which joins them. Use fewer.methods.attention.DeFormer, alone or "
            "in a Stack."
        )
    for layer in range(lower):
        pattern = spec.layers[layer].pattern or policy.layout(layer, INFERENCE).pattern
        if pattern is not None and not pattern.has_sliding_window:
            raise ValueError(
                f"layer {layer} must attend by a window or to all tokens; got blocks of "
                f"{pattern.block} columns, which another question shifts. Use "
                "fewer.methods.attention.Longformer, or full attention."
            )
    if attached.has_exits:
        raise ValueError(
            "method must have no early exits, which may exit before all states are computed; got "
            f"{attached.method}. Use fewer.methods.attention.DeFormer without early exits."
        )
    if spec.task is not Task.SPAN:
        raise ValueError(
            f"model must be a model of question answering; got a {type(model).__name__}. Load it "
            "by AutoModelForQuestionAnswering."
        )
    return lower


def read_lower(
    model: PreTrainedModel, batch: Mapping[str, Tensor], lower: int
) -> list[RemainingStates]:
    """Encode a batch of pairs by the lower layers; return each second text's remaining states.

    Raises `ValueError` for a method by which pruned tokens may answer: their states are not kept.
    """
    with evaluating(model) as reader, torch.inference_mode():
        attached, encoder = attachment(reader), parts(reader)[1]
        backbone = attached.backbone(encoder)
        tokens = pack(
            backbone,
            batch["input_ids"],
            None,
            batch["attention_mask"],
            batch.get("token_type_ids"),
            None,
            attached.settings.protect,
            protects_first_text=attached.protects_first_text,
            restarts_positions=attached.policy.inputs.restarts_positions,
            needs_second_text=attached.policy.inputs.second_text,
            needs_ids=attached.policy.inputs.ids,
        )
        is_second = tokens.roles.second_text
        assert is_second is not None
        first_lengths = tokens.count((~is_second).float()).long()
        remaining, trace = read_through(
            backbone.layers,
            attached.policy,
            tokens,
            attend=kernel(attached.settings.kernel),
            stop=lower,
        )
        if any(entry.decision.restores for entry in trace.decisions):
            raise ValueError(
                "method must not let pruned tokens answer, since an index keeps the states of the "
                f"others alone; got {attached.method}. Train it with restore=False."
            )
        is_second = remaining.roles.second_text
        assert is_second is not None
        second = remaining.select(is_second.nonzero().squeeze(1))
        places = second.slot % second.grid[1] - first_lengths[second.sequence]
        sizes = second.cu.diff().tolist()
        states = second.hidden.float().cpu().split(sizes)
    return list(zip(places.cpu().split(sizes), states, strict=True))


def check_independence(
    method: object,
    with_empty_question: Sequence[RemainingStates],
    with_question: Sequence[RemainingStates],
) -> None:
    """Check that the remaining tokens of passages are the same for two questions.

    Raises `ValueError` for a method that prunes other tokens for another question.
    """
    changed = total = 0
    for (places, _), (other_places, _) in zip(with_empty_question, with_question, strict=True):
        shared = int(torch.isin(places, other_places).sum())
        changed += len(places) + len(other_places) - 2 * shared
        total += len(places) + len(other_places)
    if changed > _TOLERANCE * total:
        raise ValueError(
            "method must prune the same tokens of a passage for every question; got "
            f"{method}, for which {changed} of {total} differ. Use a method without blocks and "
            "without scores by the length of the pair, which depend on the question."
        )


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lower: int) -> str:
    """Hash the inputs of a passage's states by SHA-256, in hex digits.

    They are the embeddings, the lower layers and their number, the method and the tokenizer.
    """
    attached, encoder = attachment(model), parts(model)[1]
    digest = hashlib.sha256()
    description = {
        "architecture": type(encoder).__name__,
        "heads": attached.spec.heads,
        "method": method_to(attached.method),
        "protect": attached.settings.protect,
        "lower": lower,
        "tokenizer": _describe_tokenizer(tokenizer),
    }
    digest.update(json.dumps(description, sort_keys=True).encode())
    upper = _list_upper_prefixes(encoder, attached.spec.num_layers, lower)
    for name, tensor in sorted(encoder.state_dict().items()):
        if not name.startswith(upper):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _list_upper_prefixes(encoder: nn.Module, layers: int, lower: int) -> tuple[str, ...]:
    """Return the name prefixes of the upper layers' tensors; shared layers have none."""
    return tuple(
        f"{name}.{number}."
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == layers
        and not name.startswith("fewer.")
        for number in range(lower, layers)
    )


def _describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Describe a tokenizer without its current truncation and padding."""
    backend: Any = tokenizer.backend_tokenizer
    rules: dict[str, Any] = json.loads(backend.to_str())
    return rules | {"truncation": None, "padding": None}
