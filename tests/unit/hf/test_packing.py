"""Inputs that an attached model takes, and its errors for all others."""

import pytest
import torch

import fewer
from fewer import LTP, Dense
from fewer.backbones import bind
from fewer.hf.packing import pack
from fewer.methods.attention import DeFormer
from fewer.methods.pruning import BlockSkim
from tests.contract.table import BACKBONES, every_backbone, read
from tests.tiny import COMPUTED, VOCABULARY, ragged, real, tiny


@pytest.fixture
def model():
    return fewer.attach(tiny())


def _both(name, **batch):
    """Answers of the plain and of the attached model."""
    model = tiny(name)
    with torch.no_grad():
        plain = model(**batch).logits
        return fewer.attach(model)(**batch).logits, plain


@every_backbone
def test_holes_in_a_mask_mean_what_they_mean_in_transformers(backbone):
    batch = ragged(tiny(backbone))
    mask = batch["attention_mask"]
    mask[1, [2, 3, 7]] = 0
    mask[3, 5] = 0
    mask[4, 1:] = 0
    packed, plain = _both(backbone, **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@every_backbone
def test_a_text_with_holes_keeps_its_columns(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2))
    batch = ragged(model)
    batch["attention_mask"][1, [2, 3, 7]] = 0
    _, trace = read(model, batch)
    assert torch.equal(trace.layers_read > 0, batch["attention_mask"].bool())


@every_backbone
def test_embeddings_may_be_given_instead_of_ids(backbone):
    model = tiny(backbone)
    batch = ragged(model)
    embeds = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    packed, plain = _both(backbone, inputs_embeds=embeds, **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_gradients_reach_given_embeddings_of_real_tokens_only(model):
    batch = ragged(model)
    embeds = torch.randn(5, 12, 16, requires_grad=True)
    model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits.sum().backward()
    assert torch.equal(embeds.grad.abs().sum(-1) > 0, batch["attention_mask"].bool())


@every_backbone
def test_a_mask_may_be_boolean_or_float(backbone):
    model = fewer.attach(tiny(backbone))
    batch = ragged(model)
    expected, _ = read(model, batch)
    for kind in (torch.bool, torch.float32, torch.int32):
        got, _ = read(model, {**batch, "attention_mask": batch["attention_mask"].to(kind)})
        assert torch.equal(got, expected)


@every_backbone
def test_ids_may_be_int32(backbone):
    model = fewer.attach(tiny(backbone))
    batch = ragged(model)
    got, _ = read(model, {name: values.int() for name, values in batch.items()})
    assert torch.equal(got, read(model, batch)[0])


@every_backbone
def test_padding_columns_are_never_read(backbone):
    model = fewer.attach(tiny(backbone))
    batch = ragged(model)
    expected, _ = read(model, batch)
    batch["input_ids"][batch["attention_mask"] == 0] = -100
    got, _ = read(model, batch)
    assert torch.equal(real(got, batch), real(expected, batch))


@every_backbone
@pytest.mark.parametrize("token", [-1, VOCABULARY, 10**6])
def test_an_id_out_of_the_vocabulary_is_named_with_its_text(backbone, token):
    model = fewer.attach(tiny(backbone))
    batch = ragged(model)
    batch["input_ids"][3, 4] = token
    with pytest.raises(ValueError, match=rf"input_ids must be in 0\.\.59 .*got {token} in text 3 "):
        model(**batch)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in COMPUTED])
def test_a_text_beyond_the_maximum_length_is_named(name):
    model = fewer.attach(tiny(name))
    with pytest.raises(ValueError, match=r"positions must be in .* in text 1 .*truncation=True"):
        model(**_long(model))


@pytest.mark.parametrize("name", COMPUTED)
def test_models_that_compute_positions_have_no_maximum(name):
    model = fewer.attach(tiny(name))
    assert torch.isfinite(model(**_long(model)).logits).all()


def _long(model):
    ids = torch.full((2, 41), 7)
    mask = torch.ones_like(ids)
    mask[0, 20:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("segment", [-1, 2])
@pytest.mark.parametrize("name", ["bert", "electra", "albert"])
def test_a_segment_out_of_range_is_named(name, segment):
    model = fewer.attach(tiny(name))
    batch = ragged(model)
    batch["token_type_ids"][1, 5] = segment
    with pytest.raises(
        ValueError, match=rf"token_type_ids must be in 0\.\.1 .*got {segment} in text 1"
    ):
        model(**batch)


def test_segments_of_a_model_with_one_are_named():
    model = fewer.attach(tiny("roberta", type_vocab_size=1))
    batch = ragged(model)
    batch["token_type_ids"] = torch.ones_like(batch["input_ids"])
    with pytest.raises(ValueError, match=r"token_type_ids must be in 0\.\.0 .*got 1 in"):
        model(**batch)


@pytest.mark.parametrize("name", ["token_type_ids", "position_ids"])
def test_one_row_of_segments_or_positions_serves_all_texts(name):
    model = tiny()
    batch = ragged(model) | {name: torch.tensor([[0, 1] * 6])}
    packed, plain = _both("bert", **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["token_type_ids", "position_ids"])
@pytest.mark.parametrize("shape", [(5, 13), (4, 12), (60,), (5, 12, 1)])
def test_segments_and_positions_of_another_shape_are_refused(model, name, shape):
    batch = ragged(model) | {name: torch.zeros(shape, dtype=torch.long)}
    with pytest.raises(ValueError, match=rf"{name} must have .* length\) = \(5, 12\)"):
        model(**batch)


@pytest.mark.parametrize("names", [{}, {"input_ids": 1, "inputs_embeds": 1}])
def test_input_ids_and_inputs_embeds_exclude_each_other(model, names):
    inputs = {"input_ids": torch.ones(2, 3).long(), "inputs_embeds": torch.ones(2, 3, 16)}
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds, and only one"):
        model.base_model(**{name: inputs[name] for name in names})


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), ()])
def test_ids_of_another_number_of_dimensions_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"input_ids must have 2 dimensions: \(batch, length\)"):
        model.base_model(input_ids=torch.ones(shape, dtype=torch.long))


def test_embeddings_of_another_number_of_dimensions_are_refused(model):
    with pytest.raises(
        ValueError, match=r"inputs_embeds must have 3 dimensions: \(batch, length, width\)"
    ):
        model.base_model(inputs_embeds=torch.ones(2, 16))


@every_backbone
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            [[1, 1, 1], [0, 0, 0]],
            r"attention_mask must be 1 for some token .*got a text 1 of the batch without a token",
        ),
        (
            [[1, 1, 1], [0, 1, 1]],
            r"must start at column 0, .*got text 1 of the batch from column 1 on: left padding",
        ),
        ([[1, 1], [1, 1]], r"attention_mask must have the shape .* = \(2, 3\); got \(2, 2\)"),
    ],
)
def test_a_bad_mask_is_explained(backbone, mask, message):
    model = fewer.attach(tiny(backbone))
    with pytest.raises(ValueError, match=message):
        model(input_ids=torch.full((2, 3), 7), attention_mask=torch.tensor(mask))


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (2, 3, 3), (2, 1, 3, 3)])
def test_a_mask_of_pairs_is_refused(model, shape):
    with pytest.raises(
        ValueError, match=r"attention_mask .*Masks of pairs of tokens .* cannot be packed"
    ):
        model(input_ids=torch.full((2, 3), 7), attention_mask=torch.ones(shape))


@every_backbone
@pytest.mark.parametrize("shape", [(3, 0), (0, 4)])
def test_an_empty_batch_is_refused(backbone, shape):
    model = fewer.attach(tiny(backbone, "Model"))
    ids = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match="batch must have at least one text of one token or more"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize("name", ["encoder_hidden_states", "past_key_values"])
def test_arguments_of_decoders_are_refused(model, name):
    with pytest.raises(ValueError, match=name):
        model.base_model(**ragged(model), **{name: torch.ones(1)})


@every_backbone
def test_protected_ids_stay_and_others_need_not(backbone):
    plain, protected = (
        fewer.attach(tiny(backbone), LTP(final_threshold=0.9), protect=ids) for ids in ((), (7, 9))
    )
    batch = ragged(plain)
    batch["input_ids"][1, 4] = 7
    batch["input_ids"][3, 2] = 9
    depth = [read(model, batch)[1].layers_read for model in (plain, protected)]
    layers = int(depth[0].max())
    places = torch.isin(batch["input_ids"], torch.tensor([7, 9]))
    assert (depth[1][places] == layers).all()
    assert (depth[0][places] < layers).any()


def _pairs(*texts, pad=0):
    """Pad rows of ids; the tests below write 3 for a separator."""
    columns = max(map(len, texts))
    ids = [[*text, *[pad] * (columns - len(text))] for text in texts]
    mask = [[1] * len(text) + [0] * (columns - len(text)) for text in texts]
    return torch.tensor(ids), torch.tensor(mask)


def _packed(backbone, ids, mask, **how):
    encoder = tiny(backbone, "QuestionAnswering").base_model
    return pack(bind(encoder), ids, None, mask, None, None, **how)


PAIRS = {
    "pair": ([2, 7, 8, 3, 9, 10, 3], [0, 0, 0, 0, 1, 1, 1]),
    "two separators": ([2, 7, 3, 3, 9, 10, 3], [0, 0, 0, 1, 1, 1, 1]),
    "separators within": ([2, 7, 3, 9, 3, 10, 3], [0, 0, 0, 1, 1, 1, 1]),
    "empty passage": ([2, 7, 8, 3, 3], [0, 0, 0, 0, 1]),
    "one text": ([2, 7, 8, 3], [0, 0, 0, 0]),
    "one token": ([2], [0]),
}


@every_backbone
@pytest.mark.parametrize(
    "options", [{"protects_first_text": True}, {"restarts_positions": True}], ids=str
)
def test_the_second_text_begins_after_the_first_separator(backbone, options):
    rows, seconds = zip(*PAIRS.values(), strict=True)
    tokens = _packed(backbone, *_pairs(*rows), **options)
    assert tokens.roles.second_text.long().tolist() == [item for row in seconds for item in row]


def test_the_separator_is_whatever_the_text_ends_with():
    ids, mask = _pairs([2, 7, 50, 9, 50], [2, 7, 3, 9, 3])
    actual = _packed("bert", ids, mask, restarts_positions=True).roles.second_text
    assert actual.tolist() == [False, False, False, True, True] * 2


def test_segments_distinguish_a_separator_inside_the_question_from_its_end():
    ids, mask = _pairs([2, 7, 3, 9, 3, 10, 3], [2, 7, 3, 9, 3], [2, 7, 8, 3])
    segments = torch.tensor([[0, 0, 0, 0, 0, 1, 1], [0] * 7, [0, 0, 1, 1, 0, 0, 0]])
    encoder = tiny("bert", "QuestionAnswering").base_model
    tokens = pack(bind(encoder), ids, None, mask, segments, None, protects_first_text=True)
    expected = [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0] * 4]  # the second row has no segments
    assert tokens.roles.second_text.long().tolist() == [item for row in expected for item in row]


def test_a_question_is_protected_only_on_request():
    ids, mask = _pairs(PAIRS["pair"][0], PAIRS["one text"][0])
    plain, protected = (
        _packed("bert", ids, mask, protects_first_text=protects) for protects in (False, True)
    )
    assert plain.roles.second_text is None
    assert plain.roles.protected.long().tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert protected.roles.protected.long().tolist() == [1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1]


def test_protected_ids_of_a_passage_are_protected_besides():
    ids, mask = _pairs(PAIRS["pair"][0])
    tokens = _packed("bert", ids, mask, protects_first_text=True, protect=(10,))
    assert tokens.roles.protected.long().tolist() == [1, 1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize(("backbone", "first"), [("bert", 0), ("roberta", 2)])
def test_a_second_text_that_restarts_is_numbered_like_the_first(backbone, first):
    rows = [PAIRS[name][0] for name in ("pair", "two separators", "one text", "empty passage")]
    pad = first - 1 if first else 0
    tokens = _packed(backbone, *_pairs(*rows, pad=pad), restarts_positions=True)
    expected = [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 0]]
    assert tokens.position.tolist() == [first + item for row in expected for item in row]
    position = _packed(backbone, *_pairs(*rows, pad=pad)).position
    assert position.tolist() == [first + item for row in rows for item in range(len(row))]


@pytest.mark.parametrize(
    ("method", "protects"), [(Dense(), False), (DeFormer(lower=1), False), (LTP(), True)]
)
def test_models_of_questions_protect_them_where_tokens_may_be_pruned(method, protects):
    model = fewer.attach(tiny(task="QuestionAnswering"), method)
    assert fewer.attachment(model).protects_first_text is protects
    assert not fewer.attachment(fewer.attach(tiny(), LTP())).protects_first_text


@pytest.mark.parametrize("method", [BlockSkim(), LTP(), DeFormer(lower=1)], ids=str)
def test_inputs_embeds_are_refused_where_the_question_must_be_located(method):
    model = fewer.attach(tiny(task="QuestionAnswering"), method)
    with pytest.raises(ValueError, match="input_ids must be passed to find where"):
        model(inputs_embeds=torch.randn(2, 5, 16))


@pytest.mark.parametrize(
    ("how", "first_only"),
    [
        ({}, True),
        ({"needs_second_text": True}, True),
        ({"protect": (7,)}, False),
        ({"protects_first_text": True}, False),
    ],
    ids=str,
)
def test_the_host_knows_whether_only_cls_is_protected(how, first_only):
    ids, mask = _pairs(PAIRS["pair"][0])
    roles = _packed("bert", ids, mask, **how).roles
    assert roles.protects_first_only is first_only
    assert (int(roles.protected.sum()) == 1) is first_only
