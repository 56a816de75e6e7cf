import pytest
import torch

import fewer
from fewer.backbones import bind
from fewer.kernels import Pattern
from tests.tiny import tiny

LENGTHS = (300, 1, 9, 130)


def _long(task="TokenClassification", **settings):
    return tiny("longformer", task, max_position_embeddings=302, **settings)


def _batch(model, global_tokens=1):
    shape = (len(LENGTHS), max(LENGTHS))
    column, length = torch.arange(shape[1]), torch.tensor(LENGTHS)[:, None]
    mask = column < length
    ids = torch.randint(5, 60, shape, generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids.masked_fill(~mask, model.config.pad_token_id),
        "attention_mask": mask.long(),
        "global_attention_mask": ((column < global_tokens) & mask).long(),
    }


def _states(model, batch):
    with torch.no_grad():
        return model(**batch).logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
@pytest.mark.parametrize("global_tokens", [0, 1, 5])
@pytest.mark.parametrize("window", [4, [4, 8, 40]])
def test_a_long_text_has_the_outputs_of_transformers(window, global_tokens, kernel):
    model = _long(attention_window=window)
    batch = _batch(model, global_tokens)
    plain = _states(model, batch)
    packed = _states(fewer.attach(model, kernel=kernel), batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_each_layer_has_its_window_and_counts_both_sides():
    layers = bind(_long(attention_window=[4, 8, 40]).base_model).layers
    assert [layer.pattern for layer in layers] == [Pattern(2), Pattern(4), Pattern(20)]


def test_global_tokens_anywhere_read_all_of_their_text():
    model = _long(attention_window=4, layers=1)
    batch = _batch(model, global_tokens=0)
    batch["global_attention_mask"][0, 150] = 1
    plain = _states(model, batch)
    packed = _states(fewer.attach(model), batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_gradients_reach_the_projections_of_global_tokens():
    model = _long(attention_window=4)
    batch = _batch(model)
    grads = []
    for network in (model, fewer.attach(model)):
        network.zero_grad()
        network(**batch).logits[batch["attention_mask"].bool()].square().sum().backward()
        grads.append([p.grad for n, p in sorted(network.named_parameters()) if "global" in n])
    assert len(grads[0]) == 3 * 2 * 3
    for plain, packed in zip(*grads, strict=True):
        torch.testing.assert_close(packed, plain, atol=1e-3, rtol=1e-3)
        assert plain.abs().sum() > 0


def test_projections_of_global_tokens_have_a_cost_only_with_global_tokens():
    model = fewer.attach(_long(attention_window=4))
    costs = []
    for global_tokens in (0, 1):
        with fewer.record() as traces, torch.no_grad():
            model(**_batch(model, global_tokens))
        costs.append(traces[0].layers[0].extra.separate_projections)
    assert costs[0] is None
    queries, keys = costs[1]
    assert queries.tolist() == [1.0] * len(LENGTHS)
    assert keys.tolist() == list(map(float, LENGTHS))


def test_a_pass_without_pruning_has_the_dense_flops_with_global_tokens_too():
    model = fewer.attach(_long(attention_window=64, width=64))
    shape = fewer.attachment(model).spec
    for global_tokens, tolerance in ((0, 1e-6), (1, 0.01)):
        with fewer.record() as traces, torch.no_grad():
            model(**_batch(model, global_tokens))
        assert float(shape.flops_ratio(traces[0])) == pytest.approx(1, rel=tolerance)


def test_a_mask_of_another_shape_is_refused():
    model = fewer.attach(_long())
    batch = _batch(model) | {"global_attention_mask": torch.ones(1, 7)}
    with pytest.raises(ValueError, match="global_attention_mask must have the shape"):
        model(**batch)


@pytest.mark.parametrize("where", ["all of the padding", "one place", "a hole in the text"])
def test_a_global_mark_on_padding_is_ignored_as_in_transformers(where):
    model = _long(attention_window=4)
    batch = _batch(model)
    if where == "a hole in the text":
        batch["attention_mask"][1, 3] = 0
    outside = 1 - batch["attention_mask"]
    if where == "one place":
        outside[:, :-1] = 0
    batch["global_attention_mask"] |= outside
    plain = _states(model, batch)
    torch.testing.assert_close(_states(fewer.attach(model), batch), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("has_global_mask", [False, True])
def test_a_2_in_the_attention_mask_means_global_as_in_transformers(has_global_mask):
    model = _long(attention_window=4)
    batch = _batch(model)
    batch["attention_mask"][[0, 2, 3], [200, 5, 7]] = 2
    if not has_global_mask:
        batch.pop("global_attention_mask")
        batch["attention_mask"][:, 0] = 2
    plain = _states(model, batch)
    torch.testing.assert_close(_states(fewer.attach(model), batch), plain, atol=1e-5, rtol=0)


def test_multiple_choice_has_the_logits_of_transformers():
    model = tiny("longformer", "MultipleChoice", max_position_embeddings=64, sep_token_id=3)
    choices = torch.randint(5, 60, (2, 2, 12), generator=torch.Generator().manual_seed(0))
    length = torch.tensor([[12, 9], [8, 10]])[..., None]
    choices[..., [3, 4]] = 3  # [CLS] a b [SEP] [SEP] ... [SEP]
    choices.scatter_(-1, length - 1, 3)
    mask = torch.arange(12) < length
    batch = {
        "input_ids": choices.masked_fill(~mask, model.config.pad_token_id),
        "attention_mask": mask.long(),
    }
    with torch.no_grad():
        plain = model(**batch).logits
        packed = fewer.attach(model)(**batch).logits
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_an_optimized_model_has_the_same_outputs():
    model = fewer.attach(_long(attention_window=4, width=32))
    batch = _batch(model)
    plain = _states(model, batch)
    with torch.inference_mode():
        logits = fewer.optimize(model, precision="fp32")(**batch).logits
    torch.testing.assert_close(logits[batch["attention_mask"].bool()], plain, atol=1e-4, rtol=1e-4)
