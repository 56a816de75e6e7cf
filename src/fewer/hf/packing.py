"""Check the padded inputs of a Hugging Face model and pack them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewer.backbones.base import Backbone, Tokens
from fewer.core.packed import Packed, Plan, plan, text_starts

__all__ = ["pack"]


def pack(
    backbone: Backbone,
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    protect: tuple[int, ...] = (),
    *,
    protects_first_text: bool = False,
    restarts_positions: bool = False,
    needs_second_text: bool = False,
    needs_ids: bool = False,
    anchors: Tensor | None = None,
) -> Packed:
    """Check a padded batch, drop its padding and embed the rest.

    Column 0 and every id in `protect` are protected; with `protects_first_text` also the first text
    of a pair, such as the question about a passage. With `restarts_positions` the positions of the
    second text start as if it were a text alone. `anchors` `(B, N)` are nonzero for global tokens,
    which attend to all of their text and are attended by it, in layers with a sparse pattern.
    Raises `ValueError` for invalid batches: no or two inputs, a wrong shape, left padding, a text
    without tokens, ids out of range, a text beyond the model's maximum length.
    """
    inputs = _check_inputs(input_ids, inputs_embeds)
    layout = plan(attention_mask, (inputs.shape[0], inputs.shape[1]), inputs.device)
    if backbone.strict_mask and attention_mask is not None:
        _check_binary(attention_mask)
    ids = None if input_ids is None else layout.take(input_ids)
    ranges = []
    if ids is not None:
        advice = "Encode texts by the tokenizer of this model."
        ranges.append(_Range(ids, backbone.vocabulary, "input_ids", advice))
    segment = None
    if token_type_ids is not None and backbone.segments:
        segment = layout.take(_expand(layout.grid, token_type_ids, "token_type_ids"))
        advice = "Leave it out for single texts."
        ranges.append(_Range(segment, backbone.segments, "token_type_ids", advice))
    position = _positions(backbone, layout, input_ids, position_ids)
    is_column = position is layout.column  # then the last column is the largest
    if backbone.max_positions is not None and not (
        is_column and layout.grid[1] <= backbone.max_positions
    ):
        advice = "Truncate: tokenizer(..., truncation=True)."
        ranges.append(_Range(position, backbone.max_positions, "positions", advice))
    _check_ranges(ranges, layout)
    embeds = None if inputs_embeds is None else layout.take(inputs_embeds)
    second = (
        _find_second_text(ids, segment, layout)
        if protects_first_text or restarts_positions or needs_second_text
        else None
    )
    if second is not None and restarts_positions:
        position = _restart_positions(position, second, layout)
    hidden = backbone.embed(Tokens(ids, embeds, position, segment))
    if needs_ids and ids is None:
        raise ValueError(
            "input_ids must be passed to a method that reads words; got inputs_embeds. Pass "
            "input_ids."
        )
    protected = layout.column == 0
    if second is not None and protects_first_text:
        protected = protected | ~second
    if protect:
        if ids is None:
            raise ValueError(
                "input_ids must be passed where protect holds token ids; got inputs_embeds. Pass "
                "input_ids."
            )
        protected = protected | torch.isin(ids, torch.tensor(protect, device=ids.device))
    marks = attention_mask if backbone.mask_marks_global else None
    return Packed.start(
        layout,
        hidden,
        position,
        protected,
        second,
        _global_tokens(anchors, marks, layout),
        protects_first_only=not (protect or protects_first_text),
        ids=ids if needs_ids else None,
    )


def _check_inputs(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Return the one of the two that is given. Raises `ValueError` for none, both, a bad shape."""
    inputs = input_ids if input_ids is not None else inputs_embeds
    if inputs is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("pass either input_ids or inputs_embeds, and only one of them")
    name, ndim = ("input_ids", 2) if input_ids is not None else ("inputs_embeds", 3)
    if inputs.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} dimensions: (batch, length{', width' * (ndim == 3)}); "
            f"got the shape {tuple(inputs.shape)}. Pass a batch of texts."
        )
    if input_ids is not None and input_ids.is_floating_point():
        raise ValueError(
            f"input_ids must be whole numbers (torch.long); got {input_ids.dtype}. Pass "
            "input_ids.long()."
        )
    return inputs


def _global_tokens(mask: Tensor | None, marks: Tensor | None, layout: Plan) -> Tensor | None:
    """Return which tokens are global, by `global_attention_mask` or by a 2 in the attention mask.

    Marks on padding or masked tokens are ignored, as in transformers. A token marked by both masks
    is global, whereas transformers treats it as local.
    """
    tokens = None
    if mask is not None:
        tokens = layout.take(_expand(layout.grid, mask, "global_attention_mask") != 0)
    if marks is not None:
        marked = layout.take(marks.to(layout.slot.device)) > 1
        tokens = marked if tokens is None else tokens | marked
    return tokens


def _check_binary(mask: Tensor) -> None:
    invalid = (mask != 0) & (mask != 1)
    if bool(invalid.any()):
        text, column = invalid.nonzero()[0].tolist()
        raise ValueError(
            f"attention_mask must be 0 or 1 for this model; got {float(mask[text, column])} in "
            f"column {column} of text {text}. Pass mask.bool()."
        )


def _find_second_text(ids: Tensor | None, segment: Tensor | None, layout: Plan) -> Tensor:
    """Return which tokens are second texts: segment 1, or the tokens after the first separator.

    The separator is the last token of a row: `[CLS] question [SEP] passage [SEP]`, in every family
    of tokenizers. Most families have no segments, and many callers pass none.
    """
    if ids is None:
        raise ValueError(
            "input_ids must be passed to find where the first text of a pair ends; got "
            "inputs_embeds. Pass input_ids."
        )
    starts = text_starts(layout.sequence, layout.grid[0])
    starts, ends = starts[:-1], starts[1:]
    separators = ids == ids[ends - 1][layout.sequence]
    before = separators.cumsum(0) - separators.long()  # separators before each token, of all texts
    second = before > before[starts][layout.sequence]
    if segment is None:
        return second
    # in pairs segments are more exact: a separator inside the first text does not end it
    counts = [
        torch.zeros_like(ends).index_add_(0, layout.sequence, mask.long())
        for mask in (second, segment)
    ]
    pairs = (counts[0] > 0) & (counts[1] > 0)
    return torch.where(pairs[layout.sequence], segment > 0, second)


def _restart_positions(position: Tensor, second: Tensor, layout: Plan) -> Tensor:
    """Restart the positions of second texts at the position of the row's first token."""
    first = text_starts(layout.sequence, layout.grid[0])[:-1][layout.sequence]
    before = second.cumsum(0) - second.long()  # tokens of second texts before each token
    return torch.where(second, before - before[first] + position[first], position)


def _positions(
    backbone: Backbone, layout: Plan, input_ids: Tensor | None, position_ids: Tensor | None
) -> Tensor:
    """Return the position ids that the model computes, before any token is pruned."""
    if position_ids is not None:
        return layout.take(_expand(layout.grid, position_ids, "position_ids"))
    if backbone.padding_id is None:
        return layout.column
    if input_ids is None:
        return layout.column + backbone.padding_id + 1
    is_token = input_ids != backbone.padding_id
    return layout.take(is_token.cumsum(1) * is_token + backbone.padding_id)


def _expand(grid: tuple[int, int], values: Tensor, name: str) -> Tensor:
    """Expand one row over the batch, as the model does; raise `ValueError` for other shapes."""
    if tuple(values.shape) not in (grid, (1, grid[1])):
        raise ValueError(
            f"{name} must have the shape (batch, length) = {grid}; got {tuple(values.shape)}. Pass "
            "one value per token."
        )
    return values.expand(grid)


@dataclass(frozen=True)
class _Range:
    """Values that must be in 0..limit - 1."""

    values: Tensor
    limit: int
    name: str
    advice: str


def _check_ranges(ranges: list[_Range], layout: Plan) -> None:
    """Raise `ValueError` for a value out of its range; the host waits for a GPU once."""
    ranges = [each for each in ranges if each.values.numel()]
    if not ranges:
        return
    bounds = torch.stack([bound.long() for each in ranges for bound in each.values.aminmax()])
    pairs = bounds.view(-1, 2).tolist()
    for each, (low, high) in zip(ranges, pairs, strict=True):
        if low < 0 or high >= each.limit:
            value = low if low < 0 else high
            text = int(layout.sequence[(each.values == value).nonzero()[0, 0]])
            raise ValueError(
                f"{each.name} must be in 0..{each.limit - 1} for this model; got {value} in text "
                f"{text} of the batch. {each.advice}"
            )
