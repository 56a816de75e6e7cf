"""The span layer of GLiNER computes words and spans once: what it returns stays the same."""

from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from fewer.hf.gliner_spans import share_words, unshare_words

WIDTH, WIDEST = 6, 3


def _maps(inputs: int) -> nn.Sequential:
    wide = 4 * WIDTH
    return nn.Sequential(
        nn.Linear(inputs, wide), nn.ReLU(), nn.Dropout(0.4), nn.Linear(wide, WIDTH)
    )


class SpanMarkerV0(nn.Module):
    """Represents spans one by one, with the names of gliner's class."""

    __module__ = "gliner.modeling.span_rep"

    def __init__(self) -> None:
        super().__init__()
        self.max_width = WIDEST
        self.project_start = _maps(WIDTH)
        self.project_end = _maps(WIDTH)
        self.out_project = _maps(2 * WIDTH)

    def forward(self, h: Tensor, span_idx: Tensor) -> Tensor:
        text = torch.arange(len(h))[:, None]
        first = self.project_start(h)[text, span_idx[..., 0]]
        last = self.project_end(h)[text, span_idx[..., 1]]
        spans: Tensor = self.out_project(torch.cat((first, last), -1).relu())
        return spans.view(len(h), -1, self.max_width, WIDTH)


class GLiNER(nn.Module):
    __module__ = "gliner.model"

    def __init__(self) -> None:
        super().__init__()
        self.spans = SpanMarkerV0()


def _span_idx(lengths: list[int]) -> Tensor:
    """Return all spans of at most WIDEST words; those past the end of a text are (0, 0)."""
    starts = torch.arange(max(lengths))[:, None].expand(-1, WIDEST)
    spans = torch.stack((starts, starts + torch.arange(WIDEST)), -1).flatten(0, 1)
    is_inside = spans[:, 1] < torch.tensor(lengths)[:, None]
    return spans * is_inside[..., None]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> GLiNER:
    # pickle looks classes up by the names that they have here
    module = ModuleType("gliner.modeling.span_rep")
    module.SpanMarkerV0 = SpanMarkerV0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gliner", ModuleType("gliner"))
    monkeypatch.setitem(sys.modules, "gliner.modeling", ModuleType("gliner.modeling"))
    monkeypatch.setitem(sys.modules, "gliner.modeling.span_rep", module)
    torch.manual_seed(0)
    return GLiNER().eval()


LENGTHS = [[5, 1, 4], [2], [1, 1], [7, 3]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("piece", [1, 4096])
def test_spans_are_those_of_the_package(
    lengths: list[int], piece: int, model: GLiNER, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewer.hf.gliner_spans.PIECE", piece)
    h, span_idx = torch.randn(len(lengths), max(lengths), WIDTH), _span_idx(lengths)
    expected = model.spans(h, span_idx)
    share_words(model)
    assert type(model.spans) is not SpanMarkerV0
    torch.testing.assert_close(model.spans(h, span_idx), expected)
    unshare_words(model)
    assert type(model.spans) is SpanMarkerV0
    assert torch.equal(model.spans(h, span_idx), expected)


def test_no_spans_are_left_to_the_package(model: GLiNER) -> None:
    h, none = torch.randn(2, 5, WIDTH), torch.zeros(2, 0, 2, dtype=torch.long)
    expected = model.spans(h, none)
    share_words(model)
    assert model.spans(h, none).shape == expected.shape


def test_padding_is_not_read(model: GLiNER) -> None:
    lengths = [5, 2]
    h, span_idx = torch.randn(2, 5, WIDTH), _span_idx(lengths)
    share_words(model)
    expected = model.spans(h, span_idx)
    h[1, 2:] = torch.nan
    assert torch.equal(model.spans(h, span_idx), expected)


def test_each_word_and_span_is_computed_once(
    model: GLiNER, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_words(model)
    rows: list[int] = []
    linear = nn.functional.linear

    def count(x: Tensor, *weights: Tensor) -> Tensor:
        rows.append(len(x))
        return linear(x, *weights)

    monkeypatch.setattr(nn.functional, "linear", count)
    model.spans(torch.randn(2, 5, WIDTH), _span_idx([5, 2]))
    words, spans = 5 + 2, (5 + 4 + 3) + (2 + 1)
    # both maps of first and of last words, the parts of the map of both, and the one after it
    assert rows == [*[words] * 6, spans]


def test_gradients_are_those_of_the_package(model: GLiNER) -> None:
    h, span_idx = torch.randn(2, 5, WIDTH, requires_grad=True), _span_idx([5, 3])
    weights = torch.randn(2, 5, WIDEST, WIDTH)
    (expected,) = torch.autograd.grad((model.spans(h, span_idx) * weights).sum(), h)
    share_words(model)
    (gradient,) = torch.autograd.grad((model.spans(h, span_idx) * weights).sum(), h)
    torch.testing.assert_close(gradient, expected)


def test_in_training_and_with_hooks_the_package_computes_them(model: GLiNER) -> None:
    h, span_idx = torch.randn(2, 5, WIDTH), _span_idx([5, 3])
    share_words(model)
    model.train()
    torch.manual_seed(1)
    dropped = model.spans(h, span_idx)
    torch.manual_seed(1)
    assert torch.equal(dropped, SpanMarkerV0.forward(model.spans, h, span_idx))
    model.eval()
    seen: list[int] = []
    model.spans.out_project[0].register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(model.spans(h, span_idx), SpanMarkerV0.forward(model.spans, h, span_idx))
    assert len(seen) == 2


def test_copies_and_pickles_share_words_too(model: GLiNER) -> None:
    h, span_idx = torch.randn(2, 5, WIDTH), _span_idx([5, 3])
    share_words(model)
    share_words(model)  # harmless
    expected = model.spans(h, span_idx)
    for other in (copy.deepcopy(model.spans), pickle.loads(pickle.dumps(model.spans))):
        assert type(other) is type(model.spans)
        assert torch.equal(other(h, span_idx), expected)
