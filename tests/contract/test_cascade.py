"""Law 5. The cascade is monotone: the gone stay gone, the frozen rest, the protected never go."""

from itertools import pairwise

import pytest
import torch

import fewer
from fewer import Fate
from fewer.kernels.call import never
from tests.contract.table import (
    METHODS,
    every_backbone,
    every_method,
    made,
    read,
    watched,
)
from tests.tiny import LENGTHS, SEPARATOR, ragged, tiny

APPLIES = ("compact", "mask")
NEVER_GONE = (7, 11, 13, 17, 23)
QUESTIONS = [  # methods that let tokens go, of which models of question answering may have all
    name
    for name in METHODS
    if name.startswith(("ltp", "drop", "freeze", "together", "by-state", "nobody", "block-skim"))
    or name in ("skim-and-ltp", "skim-and-freeze", "deformer-and-ltp")
]


def _living(view):
    """List the slots that a policy was shown as alive, and those of them that may ask."""
    tokens = view.tokens
    alive = torch.ones_like(tokens.protected) if tokens.alive is None else tokens.alive
    asking = alive if tokens.active is None else alive & tokens.active
    return set(tokens.slot[alive].tolist()), set(tokens.slot[asking].tolist())


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
@every_method
def test_who_is_gone_or_frozen_never_comes_back(method, backbone, apply):
    model = made(method, backbone)
    with watched(model) as seen:
        read(model, ragged(model), apply)
    steps = [_living(view) for view, _ in seen]
    for before, after in pairwise(steps):
        assert after[0] <= before[0]
        assert after[1] <= before[1]


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
@every_method
def test_fewer_layers_are_read_the_deeper_it_gets(method, backbone, apply):
    model = made(method, backbone)
    _, trace = read(model, ragged(model), apply)
    for before, after in pairwise(trace.layers):
        assert (before.keys >= before.queries).all()
        assert (before.queries >= before.read).all()
        assert (before.keys >= after.keys).all()
        assert (before.read >= after.queries).all()


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
@every_method
def test_the_protected_stay_as_long_as_their_text(method, backbone, apply):
    model = made(method, backbone, protect=NEVER_GONE)
    batch = ragged(model)
    spared = torch.isin(batch["input_ids"], torch.tensor(NEVER_GONE))
    spared[:, 0] = True
    assert spared.sum() >= len(LENGTHS) + 3
    with watched(model) as seen:
        _, trace = read(model, batch, apply)
    for view, _ in seen:
        alive, _ = _living(view)
        stays = torch.zeros(spared.numel(), dtype=torch.bool)
        stays[list(alive)] = True
        texts = stays.view(spared.shape).any(1)
        assert (stays.view(spared.shape)[texts] | ~spared[texts]).all()
    if "freez" in method or "tokee" in method or method in ("together", "by-state"):
        return  # there they may rest
    depth = trace.layers_read
    assert (depth[spared] == depth.amax(1)[spared.nonzero()[:, 0]]).all()


@every_backbone
def test_exits_let_texts_leave_at_different_layers(backbone):
    seen = set()
    for method in (
        *("right-tool", "deebert", "fastbert", "pabee", "magic-pyramid", "sentee"),
        *("span-exit", "span-pyramid"),
    ):
        model = made(method, backbone)
        _, trace = read(model, ragged(model))
        seen |= set(trace.layers_read.amax(1).tolist())
    assert len(seen) >= 2


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
def test_only_the_protected_remain_where_everybody_is_sent_away(backbone, apply):
    model = fewer.attach(tiny(backbone), METHODS["nobody"])
    _, trace = read(model, ragged(model), apply)
    first, *rest = trace.layers
    assert first.keys.tolist() == list(LENGTHS)
    assert first.read.tolist() == [1.0] * len(LENGTHS)
    assert all(layer.keys.tolist() == [1.0] * len(LENGTHS) for layer in rest)
    assert trace.layers_read.sum(1).tolist() == [len(trace.layers)] * len(LENGTHS)


@every_backbone
def test_the_frozen_stay_keys_but_are_no_queries(backbone):
    model = fewer.attach(tiny(backbone), METHODS["freeze"])
    with watched(model) as seen:
        _, trace = read(model, ragged(model))
    assert any((decision.fate == int(Fate.FROZEN)).any() for _, decision in seen)
    for layer in trace.layers:  # all tokens of a text are keys, until nobody of it reads
        assert all(keys in (0, length) for keys, length in zip(layer.keys, LENGTHS, strict=True))
        assert (layer.keys[layer.queries > 0] == torch.tensor(LENGTHS)[layer.queries > 0]).all()
    assert trace.layers[-1].queries.sum() < trace.layers[0].queries.sum() == sum(LENGTHS)


@every_backbone
def test_padding_is_never_read(backbone):
    model = fewer.attach(tiny(backbone))
    batch = ragged(model)
    _, trace = read(model, batch)
    wanted = batch["attention_mask"] * len(trace.layers)
    assert torch.equal(trace.layers_read, wanted)


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
@pytest.mark.parametrize("method", QUESTIONS)
def test_no_answer_begins_or_ends_at_a_dropped_token(method, backbone, apply):
    model = made(method, backbone, "QuestionAnswering")
    batch = ragged(model)
    logits, trace = read(model, batch, apply)
    dropped, padding = trace.dropped, batch["attention_mask"] == 0
    silent = dropped | padding
    hidden = logits == never(logits.dtype)
    assert torch.equal(hidden, silent[..., None].expand_as(hidden))
    assert not silent.gather(1, logits.argmax(1)).any()
    assert not (dropped & padding).any()
    assert dropped.any() or method.startswith("freeze")


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
@pytest.mark.parametrize("method", QUESTIONS)
def test_the_question_never_goes(method, backbone, apply):
    model = made(method, backbone, "QuestionAnswering")
    batch = ragged(model)
    first = (batch["input_ids"] == SEPARATOR).long().argmax(1)
    question = torch.arange(max(LENGTHS)) <= first[:, None]
    assert question.sum() == sum(length // 3 + 1 for length in LENGTHS)
    _, trace = read(model, batch, apply)
    assert not (trace.dropped & question).any()
    if not any(word in method for word in ("freeze", "together", "by-state")):  # there it may rest
        assert (trace.layers_read[question] == len(trace.layers)).all()


@every_backbone
@pytest.mark.parametrize("method", QUESTIONS)
def test_played_or_real_the_same_tokens_are_dropped(method, backbone):
    model = made(method, backbone, "QuestionAnswering")
    played, real = (read(model, ragged(model), apply)[1].dropped for apply in ("mask", "compact"))
    assert torch.equal(played, real)
