"""Longformer and BigBird as methods: the layouts of their layers."""

import pytest
import torch

import fewer
from fewer.core.packed import Packed, plan
from fewer.core.phase import INFERENCE
from fewer.kernels import KERNELS, Pattern
from fewer.kernels.sparse import dense_pairs
from fewer.methods.attention import BigBird, DeFormer, Longformer
from fewer.methods.combined import Stack
from tests.tiny import SEPARATOR, ragged, tiny

QUESTION = Pattern(1, global_tokens="question")


def _pattern(method, task="SequenceClassification", layer=0, backbone="bert"):
    return (
        fewer.attachment(fewer.attach(tiny(backbone, task), method))
        .policy.layout(layer, INFERENCE)
        .pattern
    )


@pytest.mark.parametrize("window", [0, 1, -2, 7])
def test_a_window_that_is_odd_or_none_is_refused(window):
    with pytest.raises(ValueError, match=rf"attention_window must .* got {window}"):
        Longformer(attention_window=window)


@pytest.mark.parametrize("settings", [{"block_size": 1}, {"num_random_blocks": -1}])
def test_blocks_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"(block_size|num_random_blocks) must"):
        BigBird(**settings)


def test_an_unknown_kind_of_global_token_is_refused():
    with pytest.raises(ValueError, match="global_tokens must"):
        Longformer(global_tokens="ends")
    with pytest.raises(ValueError, match=r"global_tokens must .* got 'end' \(did you mean 'ends'"):
        BigBird(global_tokens="end")


@pytest.mark.parametrize(
    ("task", "anchors"),
    [
        ("SequenceClassification", "first"),
        ("TokenClassification", "none"),
        ("QuestionAnswering", "question"),
        ("MaskedLM", "first"),
    ],
)
def test_global_tokens_are_those_of_the_task(task, anchors):
    assert _pattern(Longformer(attention_window=8), task) == Pattern(4, global_tokens=anchors)
    etc = _pattern(BigBird(block_size=4, global_tokens="auto"), task)
    assert etc.global_tokens == anchors


def test_bigbird_draws_different_blocks_in_each_layer():
    patterns = [_pattern(BigBird(), layer=layer) for layer in range(2)]
    assert [
        (pattern.block, pattern.random, pattern.global_tokens, pattern.seed) for pattern in patterns
    ] == [
        (64, 3, "ends", 0),
        (64, 3, "ends", 1),
    ]


def test_layers_with_their_own_window_keep_it():
    model = fewer.attach(tiny("modernbert", layers=4), Longformer(attention_window=40))
    windows = []

    def record(call):
        windows.append(call.sparse.pattern.window)
        return KERNELS["sdpa"](call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KERNELS, "recording", record)
        fewer.attach(model, Longformer(attention_window=40), kernel="recording")
        with torch.no_grad():
            model(**ragged(model))
    assert windows == [20, 2, 20, 2]


@pytest.mark.parametrize("method", [Longformer(), BigBird(), Stack((fewer.LTP(), Longformer()))])
@pytest.mark.parametrize("backbone", ["longformer", "big-bird"])
def test_a_model_with_a_pattern_in_every_layer_is_refused(backbone, method):
    message = r"the model must have layers of full attention; .* Pattern\(window=.*Attach"
    with pytest.raises(ValueError, match=message):
        fewer.attach(tiny(backbone), method)


def test_a_published_model_with_full_attention_accepts_a_pattern():
    model = tiny("big-bird", attention_type="original_full")
    policy = fewer.attachment(fewer.attach(model, BigBird(block_size=4))).policy
    assert policy.layout(0, INFERENCE).pattern.block == 4


def test_two_methods_with_a_pattern_are_refused():
    with pytest.raises(ValueError, match="pattern must come from one method"):
        fewer.attach(tiny(), Stack((Longformer(), BigBird())))
    fewer.attach(tiny("bert", "QuestionAnswering"), Stack((Longformer(), DeFormer(lower=1))))


@pytest.mark.parametrize("backbone", ["bert", "roberta", "albert"])
def test_a_window_beyond_the_text_changes_nothing(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    with torch.no_grad():
        dense = model(**batch).logits
        wide = fewer.attach(model, Longformer(attention_window=80))(**batch).logits
        blocks = fewer.attach(model, BigBird(block_size=4))(**batch).logits  # fewer than 11 blocks
        narrow = fewer.attach(model, Longformer(attention_window=2))(**batch).logits
    torch.testing.assert_close(wide, dense, atol=1e-5, rtol=0)
    torch.testing.assert_close(blocks, dense, atol=1e-5, rtol=0)
    assert (narrow - dense).abs().max() > 1e-3


def test_global_tokens_can_be_named_in_the_call():
    model = tiny("bert", "TokenClassification", layers=1)
    batch = ragged(model, (12,))
    fewer.attach(model, Longformer(attention_window=2))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 9] += 1  # far from token 2
    for column, attends in ((None, False), (2, True)):
        mask = torch.zeros_like(batch["input_ids"])
        if column is not None:
            mask[0, column] = 1
        with torch.no_grad():
            before, after = (
                model.bert(**inputs, global_attention_mask=mask)[0][0, 2]
                for inputs in (batch, changed)
            )
        assert ((before - after).abs().max() > 1e-4) == attends


def test_the_question_and_the_passage_attend_to_each_other_in_full():
    model = tiny("bert", "QuestionAnswering", layers=1)
    fewer.attach(model, Longformer(attention_window=2))
    batch = ragged(model, (12,))  # the question ends at column 4
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 9] += 1
    with torch.no_grad():
        change = (model(**batch).start_logits - model(**changed).start_logits).abs()[0] > 1e-5
    assert change.tolist() == [True] * 5 + [False] * 3 + [True] * 3 + [False]


def _questions(second):
    where = plan(None, tuple(second.shape), second.device)
    hidden = torch.zeros(second.numel(), 1)
    return Packed.start(where, hidden, where.column, where.column == 0, second.flatten())


def _layout(tokens):
    return tokens.placement.attention_layout(QUESTION, tokens.roles, 2)


def test_of_a_text_alone_only_the_first_token_is_global():
    """In a batch with a pair: without a second text all tokens would be of the question."""
    second = torch.zeros(2, 300, dtype=torch.bool)
    second[0, 5:] = True
    layout = _layout(_questions(second))
    assert layout.keys.is_global.nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4, 300]
    pair, text = layout.chunks.count_pairs(None, None, 2)
    single = dense_pairs(Pattern(1, global_tokens="first"), torch.tensor([300.0]), 2)
    assert text == single < pair < 300**2


def test_a_question_stays_global_when_its_passage_is_pruned():
    tokens = _questions(torch.arange(6)[None] > 2).select(torch.arange(3))
    assert _layout(tokens).keys.is_global.all()


def test_in_a_text_alone_tokens_attend_within_the_window():
    model = tiny("bert", "TokenClassification", layers=1)
    fewer.attach(model, Longformer(attention_window=2, global_tokens="question"))
    batch = ragged(model, (12,))
    batch["input_ids"][0, 11] = SEPARATOR  # the only separator
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 9] += 1
    with torch.no_grad():
        change = (model(**batch).logits - model(**changed).logits).abs().amax(-1)[0] > 1e-5
    assert change.nonzero().squeeze(1).tolist() == [0, 8, 9, 10]


def test_texts_are_trained_with_the_pattern_in_place():
    (phase,) = Longformer(epochs=3, learning_rate=1e-4).phases()
    assert (phase.apply, phase.trains, phase.epochs) == ("compact", "all", 3)
    assert BigBird().phases()[0].trains == "all"
