import pytest
import torch

import fewer
from fewer.core.apply import APPLIES
from fewer.core.decision import Decision, ExitOutput
from fewer.methods.exits import SENTEE, TOKEE
from fewer.methods.exits.criteria import normalised_entropy
from fewer.methods.exits.words import WordHeads
from tests.tiny import tiny
from tests.unit.methods.exits.parts import WIDTH, lesson, packed, shape, view

TAGGER = shape(answers="token")
every_method = pytest.mark.parametrize("method", [SENTEE(), TOKEE()])


def _heads(layers=None):
    torch.manual_seed(2)
    return WordHeads(layers, TAGGER)


def _left(tokens, *fates):
    decision = Decision(torch.tensor(fates, dtype=torch.int8), freezes=True).settled(tokens)
    return APPLIES["mask"].carry(tokens, decision)


def test_every_token_speaks_by_one_linear_map():
    heads, tokens = _heads(), packed()
    said, rows, spent = heads.speak(view(tokens, 1))
    wanted = tokens.hidden @ heads.maps[1].weight.T + heads.maps[1].bias
    torch.testing.assert_close(said.logits, wanted)
    assert rows.tolist() == list(range(8))
    assert said.rows.tolist() == [0, 1, 2, 3, 4, 8, 9, 10]  # of the padded grid
    assert spent.tolist() == [length * 2 * WIDTH * 3 for length in (4, 1, 3)]


def test_those_at_rest_and_the_gone_do_not_speak_and_cost_nothing():
    tokens = _left(packed(), 2, 1, 0, 2, 1, 2, 1, 2)  # the text of one token leaves
    said, rows, spent = _heads().speak(view(tokens))
    assert rows.tolist() == [0, 3, 5, 7]
    assert said.rows.tolist() == [0, 3, 8, 10]
    assert spent.tolist() == [2 * 48, 0, 2 * 48]


def test_doubts_are_entropies_and_0_at_both_ends():
    heads, tokens = _heads(), packed((4, 1, 2, 3))
    said, rows, _ = heads.speak(view(tokens))
    own = normalised_entropy(said.logits)
    inner = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 1, 0]).bool()
    assert torch.equal(heads.doubts(said, rows, view(tokens)), own * inner)
    assert own.min() > 0


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_word_whose_neighbour_was_pruned_is_no_end(apply):
    """The last token of the text of four is gone: the one before it still has a tag."""
    heads, whole = _heads(), packed()
    keep = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1]).bool()
    tokens = APPLIES[apply].carry(whole, Decision.keep(keep))
    if apply == "compact":
        tokens = tokens.take(keep.nonzero().squeeze(1)).but(alive=None)
    shown = view(tokens, seen=whole)
    said, rows, _ = heads.speak(shown)
    doubts = heads.doubts(said, rows, shown)
    assert (doubts > 0).tolist() == [False, True, True, False, False, True, False]


def test_logits_are_in_fp32_whatever_the_states_are():
    heads = _heads().to(torch.bfloat16)
    tokens = packed()
    said, _, _ = heads.speak(view(tokens.with_hidden(tokens.hidden.to(torch.bfloat16))))
    assert said.logits.dtype == torch.float32


def test_exits_after_some_layers_have_maps_of_their_own():
    heads = _heads((1, 2))
    assert heads.layers == (0, 1)
    one, other = (heads.speak(view(packed(), layer))[0] for layer in (0, 1))
    assert not torch.equal(one.logits, other.logits)
    assert (one.layer, other.layer) == (0, 1)


LABELS = torch.tensor([[-100, 1, 0, -100], [-100, 2, -100, -100]])
LOGITS = torch.arange(24.0).view(2, 4, 3).sin()


def _said(layer, rows, final=None):
    logits = torch.arange(len(rows) * 3.0).view(-1, 3).cos() * (layer + 1)
    final = None if final is None else torch.tensor(final)
    return ExitOutput(layer, torch.tensor(rows), logits, final=final)


def _cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()


def test_the_loss_weighs_layers_by_depth_over_those_who_still_read():
    one, other = _said(0, [0, 1, 2, 3, 4, 5, 6]), _said(1, [2, 4, 5])
    wanted = _cross_entropy(one.logits[[1, 2, 5]], [1, 0, 2]) / 3
    wanted += _cross_entropy(other.logits[[0, 2]], [0, 2]) * 2 / 3
    loss = _heads().loss(lesson(LOGITS, LABELS, one, other))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_last_layer_learns_from_the_tokens_without_an_earlier_answer():
    said = (_said(0, [0, 1, 2], [True, True, False]), _said(1, [2, 5], [False, False]))
    wanted = _cross_entropy(LOGITS.flatten(0, 1)[[2, 5]], [0, 2])
    found = _heads().last_loss(lesson(LOGITS, LABELS, *said))
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert LABELS[0, 1] == 1  # the labels of the batch are left alone


def test_where_all_have_an_answer_the_last_layer_has_nothing_to_learn():
    logits = LOGITS.clone().requires_grad_()
    loss = _heads().last_loss(lesson(logits, LABELS, _said(0, [1, 2, 5], [True] * 3)))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("task", "settings"),
    [("SequenceClassification", {}), ("Model", {}), ("TokenClassification", {"num_labels": 1})],
)
@every_method
def test_a_model_without_a_tagging_head_is_refused(method, task, settings):
    with pytest.raises(ValueError, match="exits of tokens need a tagging head, such as AutoModelF"):
        fewer.attach(tiny(task=task, **settings), method)


@every_method
def test_a_layer_that_the_model_lacks_is_refused(method):
    wrong = type(method)(layers=[1, 7])
    assert wrong.layers == (1, 7)
    with pytest.raises(ValueError, match="wanted numbers from 1 to 2: this model has 3 layers"):
        fewer.attach(tiny(task="TokenClassification"), wrong)
