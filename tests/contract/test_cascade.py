"""Law 5. The cascade is monotone: the gone stay gone, the frozen rest, the protected never go."""

from itertools import pairwise

import pytest
import torch

import fewer
from fewer import Fate
from fewer.kernels.call import masked_score
from tests.contract.table import (
    METHODS,
    SPANS,
    build,
    every_backbone,
    law_of_families,
    law_of_methods,
    read,
    watched,
)
from tests.tiny import LENGTHS, SEPARATOR, ragged, tiny

APPLIES = ("compact", "mask")
NEVER_GONE = (7, 11, 13, 17, 23)
QUESTIONS = [  # methods for question answering that drop or freeze tokens, and have no exits
    name
    for name, case in METHODS.items()
    if SPANS in case.tasks and (case.may_drop or case.may_freeze) and not case.has_exits
]


def _list_slots(view):
    """List the slots of the tokens that are alive, and of those that are active."""
    tokens = view.tokens
    alive = torch.ones_like(tokens.roles.protected) if tokens.alive is None else tokens.alive
    active = alive if tokens.active is None else alive & tokens.active
    return set(tokens.slot[alive].tolist()), set(tokens.slot[active].tolist())


@law_of_methods()
def test_who_is_gone_or_frozen_never_comes_back(method, backbone):
    model = build(method, backbone)
    for apply in APPLIES:
        with watched(model) as steps:
            read(model, ragged(model), apply)
        for before, after in pairwise(_list_slots(view) for view, _ in steps):
            assert after[0] <= before[0], apply
            assert after[1] <= before[1], apply


@law_of_methods()
def test_fewer_layers_are_read_the_deeper_it_gets(method, backbone):
    model = build(method, backbone)
    for apply in APPLIES:
        _, trace = read(model, ragged(model), apply)
        for before, after in pairwise(trace.layers):
            assert (before.keys >= before.queries).all(), apply
            assert (before.queries >= before.read).all(), apply
            assert (before.keys >= after.keys).all(), apply
            assert (before.read >= after.queries).all(), apply


@law_of_methods()
def test_the_protected_stay_as_long_as_their_text(method, backbone):
    model = build(method, backbone, protect=NEVER_GONE)
    batch = ragged(model)
    spared = torch.isin(batch["input_ids"], torch.tensor(NEVER_GONE))
    spared[:, 0] = True
    assert spared.sum() >= len(LENGTHS) + 3
    for apply in APPLIES:
        with watched(model) as steps:
            _, trace = read(model, batch, apply)
        for view, _ in steps:
            alive, _ = _list_slots(view)
            stays = torch.zeros(spared.numel(), dtype=torch.bool)
            stays[list(alive)] = True
            texts = stays.view(spared.shape).any(1)
            assert (stays.view(spared.shape)[texts] | ~spared[texts]).all(), apply
        if METHODS[method].may_freeze:
            continue  # frozen tokens enter no further layer
        depth = trace.layers_read
        assert (depth[spared] == depth.amax(1)[spared.nonzero()[:, 0]]).all()


@every_backbone
def test_exits_let_texts_leave_at_different_layers(backbone):
    seen = set()
    for method in (
        *("right-tool", "deebert", "fastbert", "pabee", "magic-pyramid", "sentee"),
        *("span-exit", "span-pyramid"),
    ):
        model = build(method, backbone)
        _, trace = read(model, ragged(model))
        seen |= set(trace.layers_read.amax(1).tolist())
    assert len(seen) >= 2


@pytest.mark.parametrize("apply", APPLIES)
@every_backbone
def test_only_the_protected_remain_where_everybody_is_sent_away(backbone, apply):
    model = fewer.attach(tiny(backbone), METHODS["nobody"].method)
    _, trace = read(model, ragged(model), apply)
    assert trace.lengths.tolist() == list(LENGTHS)
    assert all(layer.keys.tolist() == [1.0] * len(LENGTHS) for layer in trace.layers)
    assert trace.layers_read.sum(1).tolist() == [len(trace.layers)] * len(LENGTHS)


@every_backbone
def test_the_frozen_stay_keys_but_are_no_queries(backbone):
    model = fewer.attach(tiny(backbone), METHODS["freeze"].method)
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


@law_of_families(QUESTIONS)
def test_no_answer_begins_or_ends_at_a_dropped_token(method, backbone):
    model = build(method, backbone, SPANS)
    batch = ragged(model, seed=1)
    for apply in APPLIES:
        logits, trace = read(model, batch, apply)
        dropped, padding = trace.dropped, batch["attention_mask"] == 0
        silent = dropped | padding
        hidden = logits == masked_score(logits.dtype)
        assert torch.equal(hidden, silent[..., None].expand_as(hidden)), apply
        assert not silent.gather(1, logits.argmax(1)).any(), apply
        assert not (dropped & padding).any(), apply
        case = METHODS[method]
        assert dropped.any() == (case.may_drop and not case.restores), apply


@law_of_families(QUESTIONS)
def test_the_question_never_goes(method, backbone):
    model = build(method, backbone, SPANS)
    batch = ragged(model)
    first = (batch["input_ids"] == SEPARATOR).long().argmax(1)
    question = torch.arange(max(LENGTHS)) <= first[:, None]
    assert question.sum() == sum(length // 3 + 1 for length in LENGTHS)
    for apply in APPLIES:
        _, trace = read(model, batch, apply)
        assert not (trace.dropped & question).any(), apply
        if not METHODS[method].may_freeze:
            assert (trace.layers_read[question] == len(trace.layers)).all()


@law_of_families(QUESTIONS)
def test_played_or_real_the_same_tokens_are_dropped(method, backbone):
    model = build(method, backbone, SPANS)
    played, real = (read(model, ragged(model), apply)[1].dropped for apply in ("mask", "compact"))
    assert torch.equal(played, real)
