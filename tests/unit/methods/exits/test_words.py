import pytest
import torch

import fewer
from fewer.core.apply import APPLIES
from fewer.core.cost import Task
from fewer.core.decision import Decision, ExitOutput
from fewer.methods.exits import SENTEE, TOKEE
from fewer.methods.exits.criteria import normalised_entropy
from fewer.methods.exits.words import WordHeads
from tests.tiny import tiny
from tests.unit.methods.exits.parts import WIDTH, packed, spec, training_batch, view

TAGGER = spec(task=Task.TOKEN)
every_method = pytest.mark.parametrize("method", [SENTEE(), TOKEE()])


def _heads(layers=None):
    torch.manual_seed(2)
    return WordHeads(layers, TAGGER)


def _carry_out(tokens, *fates):
    decision = Decision(torch.tensor(fates, dtype=torch.int8), freezes=True).with_guarantees(tokens)
    return APPLIES["mask"].carry_out(tokens, decision)


def test_the_head_of_a_layer_is_one_linear_map_of_every_token():
    heads, tokens = _heads(), packed()
    output, rows, flops = heads.compute(view(tokens, 1))
    expected = tokens.hidden @ heads.maps[1].weight.T + heads.maps[1].bias
    torch.testing.assert_close(output.logits, expected)
    assert rows.tolist() == list(range(8))
    assert output.rows.tolist() == [0, 1, 2, 3, 4, 8, 9, 10]  # of the padded grid
    assert flops.tolist() == [length * 2 * WIDTH * 3 for length in (4, 1, 3)]


def test_heads_of_frozen_and_pruned_tokens_are_not_computed_and_cost_nothing():
    tokens = _carry_out(packed(), 2, 1, 0, 2, 1, 2, 1, 2)  # the text of one token exits
    output, rows, flops = _heads().compute(view(tokens))
    assert rows.tolist() == [0, 3, 5, 7]
    assert output.rows.tolist() == [0, 3, 8, 10]
    assert flops.tolist() == [2 * 48, 0, 2 * 48]


def test_uncertainties_are_entropies_and_0_at_both_ends():
    heads, tokens = _heads(), packed((4, 1, 2, 3))
    output, rows, _ = heads.compute(view(tokens))
    entropies = normalised_entropy(output.logits)
    inner = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 1, 0]).bool()
    assert torch.equal(heads.uncertainty(output, rows, view(tokens)), entropies * inner)
    assert entropies.min() > 0


@pytest.mark.parametrize("apply", ["compact", "mask"])
def test_a_word_whose_neighbour_was_pruned_is_no_end(apply):
    """The last token of the text of four is pruned: the token before it still has a tag."""
    heads, start = _heads(), packed()
    keep = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1]).bool()
    tokens = APPLIES[apply].carry_out(start, Decision.keep(keep))
    if apply == "compact":
        tokens = tokens.select(keep.nonzero().squeeze(1)).replace(alive=None)
    pruned = view(tokens, start=start)
    output, rows, _ = heads.compute(pruned)
    uncertainty = heads.uncertainty(output, rows, pruned)
    assert (uncertainty > 0).tolist() == [False, True, True, False, False, True, False]


def test_logits_are_in_fp32_whatever_the_states_are():
    heads = _heads().to(torch.bfloat16)
    tokens = packed()
    output, _, _ = heads.compute(view(tokens.replace(hidden=tokens.hidden.to(torch.bfloat16))))
    assert output.logits.dtype == torch.float32


def test_exits_after_some_layers_have_maps_of_their_own():
    heads = _heads((1, 2))
    assert heads.layers == (0, 1)
    first, second = (heads.compute(view(packed(), layer))[0] for layer in (0, 1))
    assert not torch.equal(first.logits, second.logits)
    assert (first.layer, second.layer) == (0, 1)


LABELS = torch.tensor([[-100, 1, 0, -100], [-100, 2, -100, -100]])
LOGITS = torch.arange(24.0).view(2, 4, 3).sin()


def _output(layer, rows, exited=None):
    logits = torch.arange(len(rows) * 3.0).view(-1, 3).cos() * (layer + 1)
    exited = None if exited is None else torch.tensor(exited)
    return ExitOutput(layer, torch.tensor(rows), logits, exited=exited)


def _cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()


def test_the_loss_weighs_layers_by_depth_over_the_active_tokens():
    first, second = _output(0, [0, 1, 2, 3, 4, 5, 6]), _output(1, [2, 4, 5])
    expected = _cross_entropy(first.logits[[1, 2, 5]], [1, 0, 2]) / 3
    expected += _cross_entropy(second.logits[[0, 2]], [0, 2]) * 2 / 3
    loss = _heads().loss(training_batch(LOGITS, LABELS, first, second))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_last_layer_learns_from_the_tokens_that_have_not_exited():
    outputs = (_output(0, [0, 1, 2], [True, True, False]), _output(1, [2, 5], [False, False]))
    expected = _cross_entropy(LOGITS.flatten(0, 1)[[2, 5]], [0, 2])
    loss = _heads().last_loss(training_batch(LOGITS, LABELS, *outputs))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert LABELS[0, 1] == 1  # the labels of the batch are unchanged


def test_where_all_tokens_have_exited_the_loss_of_the_last_layer_is_0():
    logits = LOGITS.clone().requires_grad_()
    loss = _heads().last_loss(training_batch(logits, LABELS, _output(0, [1, 2, 5], [True] * 3)))
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
    too_deep = type(method)(layers=[1, 7])
    assert too_deep.layers == (1, 7)
    with pytest.raises(ValueError, match=r"layers\b"):
        fewer.attach(tiny(task="TokenClassification"), too_deep)
