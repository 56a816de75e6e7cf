"""Properties of single architectures."""

import warnings

import pytest
import torch

import fewer
from fewer.backbones import bind
from fewer.core.needs import Needs
from fewer.kernels import Pattern
from tests.contract.table import read
from tests.tiny import ragged, real, tiny

ROBERTAS = ("roberta", "xlm-roberta", "camembert")


def _both(model, **batch):
    """Return the logits of the attached and of the plain model."""
    with torch.no_grad(), warnings.catch_warnings():
        plain = fewer.detach(model)(**batch).logits
        packed = fewer.attach(model)(**batch).logits
    return packed, plain


@pytest.mark.parametrize("name", ROBERTAS)
def test_the_roberta_family_numbers_positions_after_its_padding_id(name):
    model = tiny(name, pad_token_id=3)
    batch = ragged(model, seed=1)
    packed, plain = _both(model, **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ROBERTAS)
@pytest.mark.parametrize("index", [(1, 0), (1, 3), (3, 6)])
@pytest.mark.parametrize("hidden", [True, False])
def test_the_roberta_family_skips_a_padding_id_inside_a_text(name, index, hidden):
    model = tiny(name)
    batch = ragged(model)
    batch["input_ids"][index] = model.config.pad_token_id
    if hidden and index[1]:
        batch["attention_mask"][index] = 0
    packed, plain = _both(model, **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ROBERTAS)
def test_the_roberta_family_takes_given_positions_as_rows_of_its_table(name):
    model = tiny(name)
    batch = ragged(model)
    batch["position_ids"] = torch.arange(12)[None] * 2 + 5
    packed, plain = _both(model, **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ROBERTAS)
def test_the_longest_text_of_the_roberta_family_is_shorter_than_its_table(name):
    model = tiny(name)  # 40 rows, of which the first two are not used
    assert torch.isfinite(fewer.attach(model)(**ragged(model, (38, 2))).logits).all()
    with pytest.raises(ValueError, match=r"positions must be in 0\.\.39 .*got 40 .*truncation"):
        model(**ragged(model, (39, 2)))


@pytest.mark.parametrize("name", ["bert", "electra", "distilbert", "albert"])
def test_the_longest_text_fills_the_table(name):
    model = tiny(name)
    assert torch.isfinite(fewer.attach(model)(**ragged(model, (40, 2))).logits).all()


@pytest.mark.parametrize("window", [2, 4, 10])
@pytest.mark.parametrize("lengths", [(1, 2, 30), (7, 31)])
def test_local_layers_have_the_windows_of_transformers(window, lengths):
    model = tiny("modernbert", layers=4, local_attention=window)
    batch = ragged(model, lengths)
    packed, plain = _both(model, **batch)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    assert {layer.pattern for layer in bind(model.base_model).layers} == {
        None,
        Pattern(window // 2),
    }


def test_windows_do_not_widen_when_tokens_are_pruned():
    """A key at distance 2 stays outside a window of 1 when the token between is pruned."""
    plain = tiny("modernbert", layers=2, local_attention=2)
    model = fewer.attach(plain, fewer.LTP(final_threshold=0.9)).base_model
    batch = ragged(model, (9,))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 2] += 1
    policy = fewer.attachment(model).policy
    policy.needs = lambda layer, phase: Needs()

    def prune_the_second(view):
        is_pruned = (view.tokens.position == 1) & (view.layer == 0)
        return fewer.Decision.keep(~is_pruned)

    policy.decide, policy.acts_in = prune_the_second, lambda *_: True
    local = bind(model).layers[1]
    assert local.pattern == Pattern(1)
    hidden = []
    with torch.no_grad():
        for module in model.layers[0].modules():  # the first layer, global, must not mix them
            if hasattr(module, "Wo"):
                module.Wo.weight.zero_()
        for inputs in (batch, changed):
            hidden.append(model(**inputs).last_hidden_state[0])
    same = (hidden[0] == hidden[1]).all(1).tolist()
    assert same == [True, True, False, False, True, True, True, True, True]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("lengths", [(1, 9, 2), (5,)])
def test_both_poolings_of_modernbert_work(pooling, lengths):
    model = tiny("modernbert", classifier_pooling=pooling)
    packed, plain = _both(model, **ragged(model, lengths))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_position_ids_change_angles_but_not_windows():
    model = tiny("modernbert")
    packed, plain = _both(model, **ragged(model), position_ids=torch.arange(12)[None] * 3)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def _rope(variant, kind):
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    scaled = {"rope_type": variant, "rope_theta": 10000.0, "factor": 2.0}
    scaled["original_max_position_embeddings"] = 8
    ropes = {"full_attention": plain, "sliding_attention": plain, kind: scaled}
    return tiny("modernbert", rope_parameters=ropes)


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize("variant", ["linear", "yarn"])
def test_a_rope_variant_of_fixed_angles_equals_transformers(variant, kind):
    model = _rope(variant, kind)
    packed, plain = _both(model, **ragged(model))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_a_rope_variant_that_depends_on_the_batch_is_refused(kind):
    with pytest.raises(ValueError, match=f"rope_type of {kind} .* 'dynamic'"):
        fewer.attach(_rope("dynamic", kind))


def test_local_and_global_layers_have_their_own_base():
    ropes = {
        "full_attention": {"rope_type": "default", "rope_theta": 100.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 7.0},
    }
    model = tiny("modernbert", rope_parameters=ropes)
    packed, plain = _both(model, **ragged(model))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("layers", "groups", "inner"), [(4, 1, 1), (4, 2, 2), (5, 2, 1), (6, 3, 2), (18, 14, 1)]
)
def test_albert_repeats_its_groups_as_transformers_does(layers, groups, inner):
    model = tiny("albert", layers=layers, num_hidden_groups=groups, inner_group_num=inner)
    packed, plain = _both(model, **ragged(model))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    assert fewer.attachment(model).spec.num_layers == layers * inner


def test_albert_has_one_threshold_per_layer_though_layers_share_modules():
    model = tiny("albert", layers=5, num_hidden_groups=1)
    fewer.attach(model, fewer.LTP(final_threshold=0.2))
    assert fewer.attachment(model).policy.threshold.shape == (4,)
    _, trace = read(model, ragged(model))
    counts = [float(layer.read.sum()) for layer in trace.layers]
    assert len(set(counts)) > 2


@pytest.mark.parametrize("width", [6, 16])
def test_electra_projects_narrow_embeddings_only(width):
    model = tiny("electra", embedding_size=width)
    batch = ragged(model)
    packed, plain = _both(model, **batch)
    torch.testing.assert_close(real(packed, batch), real(plain, batch), atol=1e-5, rtol=0)
    projection = 0 if width == 16 else 2 * 6 * 16
    assert fewer.attachment(model).spec.embed == projection
