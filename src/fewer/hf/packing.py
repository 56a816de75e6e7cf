"""The model's border: what a Hugging Face model is called with, checked and packed."""

from __future__ import annotations

import torch
from torch import Tensor

from fewer.backbones.base import Backbone, Tokens
from fewer.core.packed import Packed, Plan, plan
from fewer.kernels.sparse import offsets

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
    anchors: Tensor | None = None,
) -> Packed:
    """Check a padded batch, drop its padding and embed the rest.

    Column 0 and every id in `protect` are protected; with `protects_first_text` the whole first
    text of a pair, such as the question about a passage. With `restarts_positions` the second text
    is numbered as if it stood alone. `anchors` `(B, N)` are nonzero where a token is to read, and
    be read by, all of its text, in layers that read by a pattern. Raises `ValueError` for a batch
    that the model cannot read: no or two inputs, a bad shape, left padding, a text without tokens,
    ids out of range, a text beyond the model's maximum length.
    """
    given = input_ids if input_ids is not None else inputs_embeds
    if given is None or (input_ids is not None and inputs_embeds is not None):
        raise ValueError("pass either input_ids or inputs_embeds, and only one of them")
    wanted = 2 if input_ids is not None else 3
    if given.ndim != wanted:
        raise ValueError(
            f"the input has shape {tuple(given.shape)}, wanted {wanted} dimensions: (batch, "
            f"length{', width' * (wanted == 3)})"
        )
    if input_ids is not None and input_ids.is_floating_point():
        raise ValueError(f"input_ids are {input_ids.dtype}, wanted whole numbers (torch.long)")
    where = plan(attention_mask, (given.shape[0], given.shape[1]), given.device)
    if backbone.strict_mask and attention_mask is not None:
        _check_binary(attention_mask)
    ids = None if input_ids is None else where.take(input_ids)
    if ids is not None:
        _check_range(
            ids,
            backbone.vocabulary,
            "input_ids",
            where,
            "was the text encoded by this model's own tokenizer?",
        )
    segment = None
    if token_type_ids is not None and backbone.segments:
        segment = where.take(_over(where.grid, token_type_ids, "token_type_ids"))
        _check_range(
            segment, backbone.segments, "token_type_ids", where, "pass none for a single text"
        )
    position = _positions(backbone, where, input_ids, position_ids)
    counted = position is where.column  # then the last column is the largest
    if backbone.max_positions is not None and not (
        counted and where.grid[1] <= backbone.max_positions
    ):
        _check_range(
            position,
            backbone.max_positions,
            "positions",
            where,
            "truncate: tokenizer(..., truncation=True)",
        )
    embeds = None if inputs_embeds is None else where.take(inputs_embeds)
    second = (
        _second(ids, segment, where)
        if protects_first_text or restarts_positions or needs_second_text
        else None
    )
    if second is not None and restarts_positions:
        position = _restarted(position, second, where)
    hidden = backbone.embed(Tokens(ids, embeds, position, segment))
    protected = where.column == 0
    if second is not None and protects_first_text:
        protected = protected | ~second
    if protect:
        if ids is None:
            raise ValueError(
                "protect names token ids, but inputs_embeds were given: pass input_ids"
            )
        protected = protected | torch.isin(ids, torch.tensor(protect, device=ids.device))
    marks = attention_mask if backbone.mask_marks_global else None
    return Packed.start(
        where, hidden, position, protected, second, _global_tokens(anchors, marks, where)
    )


def _global_tokens(mask: Tensor | None, marks: Tensor | None, where: Plan) -> Tensor | None:
    """Read which tokens are global: by a mask of their own, or by a 2 in the attention mask.

    A mark on padding, or in a hole, means nothing, as in transformers; one both ways is a mark,
    where transformers takes the token for a local one.
    """
    tokens = None
    if mask is not None:
        tokens = where.take(_over(where.grid, mask, "global_attention_mask") != 0)
    if marks is not None:
        marked = where.take(marks.to(where.slot.device)) > 1
        tokens = marked if tokens is None else tokens | marked
    return tokens


def _check_binary(mask: Tensor) -> None:
    wrong = (mask != 0) & (mask != 1)
    if bool(wrong.any()):
        text, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"attention_mask must be 0 or 1 for this model; got {float(mask[text, column])} in "
            f"column {column} of text {text}. Pass mask.bool()."
        )


def _second(ids: Tensor | None, segment: Tensor | None, where: Plan) -> Tensor:
    """Find the second text of each pair: segment 1, or what follows the first separator.

    The separator is whatever token a row ends with: `[CLS] question [SEP] passage [SEP]`, in every
    family of tokenizers. Most have no segments, and many callers give none.
    """
    if ids is None:
        raise ValueError(
            "where the first text of a pair ends is read from input_ids, but inputs_embeds were "
            "given: pass input_ids"
        )
    ends = torch.bincount(where.sequence, minlength=where.grid[0]).cumsum(0)
    ended = ids == ids[ends - 1][where.sequence]
    before = ended.cumsum(0) - ended.long()  # separators before each token, of all texts
    starts = torch.nn.functional.pad(ends, (1, 0))[:-1]
    second = before > before[starts][where.sequence]
    if segment is None:
        return second
    # of a pair segments say it better: a separator that the first text holds does not end it
    counts = [
        torch.zeros_like(ends).index_add_(0, where.sequence, marks.long())
        for marks in (second, segment)
    ]
    pairs = (counts[0] > 0) & (counts[1] > 0)
    return torch.where(pairs[where.sequence], segment > 0, second)


def _restarted(position: Tensor, second: Tensor, where: Plan) -> Tensor:
    """Give the second texts positions like the first: from that of the row's first token on."""
    rows = second.nonzero().squeeze(1)
    count = torch.bincount(where.sequence[rows], minlength=where.grid[0])
    starts = offsets(count)[:-1]
    own = torch.arange(len(rows), device=rows.device) - starts[where.sequence[rows]]
    firsts = position[where.column == 0]
    return position.index_copy(0, rows, own + firsts[where.sequence[rows]])


def _positions(
    backbone: Backbone, where: Plan, input_ids: Tensor | None, position_ids: Tensor | None
) -> Tensor:
    """Give each token the position that the model itself would, before any has left."""
    if position_ids is not None:
        return where.take(_over(where.grid, position_ids, "position_ids"))
    if backbone.padding_id is None:
        return where.column
    if input_ids is None:
        return where.column + backbone.padding_id + 1
    real = input_ids != backbone.padding_id
    return where.take(real.cumsum(1) * real + backbone.padding_id)


def _over(grid: tuple[int, int], values: Tensor, name: str) -> Tensor:
    """Spread one row over the batch, as the model does; refuse every other shape."""
    if tuple(values.shape) not in (grid, (1, grid[1])):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, wanted (batch, length) = {grid}")
    return values.expand(grid)


def _check_range(values: Tensor, limit: int, name: str, where: Plan, advice: str) -> None:
    if not values.numel():
        return
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high >= limit:
        wrong = low if low < 0 else high
        text = int(where.sequence[(values == wrong).nonzero()[0, 0]])
        raise ValueError(
            f"text {text} of the batch has {name} {wrong}, wanted 0..{limit - 1} for this "
            f"model; {advice}"
        )
