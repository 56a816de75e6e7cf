"""DeBERTa-v2 and v3: every setting of the attention, what is refused, what is packed once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

import fewer
from fewer import LTP
from fewer.backbones import bind
from fewer.backbones.deberta import bucket_table
from fewer.methods.attention import BigBird
from tests.isas import needs_kernels, optimized
from tests.tiny import logits, ragged, real, tiny

LENGTHS = (1, 38, 2, 7, 23)
SETTINGS: dict[str, dict[str, Any]] = {
    "buckets, shared maps": {},
    "buckets, maps of its own": {"share_att_key": False},
    "every distance": {"position_buckets": -1},
    "few distances": {"position_buckets": -1, "max_relative_positions": 8},
    "few buckets": {"position_buckets": 8, "max_relative_positions": 20},
    "content to position": {"pos_att_type": ["c2p"]},
    "position to content": {"pos_att_type": "p2c", "share_att_key": False},
    "neither": {"pos_att_type": []},
    "no relative attention": {"relative_attention": False},
    "no norm of positions": {"norm_rel_ebd": "none"},
    "absolute positions": {"position_biased_input": True, "type_vocab_size": 2},
    "narrow embeddings": {
        "embedding_size": 6,
        "position_biased_input": True,
        "type_vocab_size": 2,
    },
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def _answers(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return real(logits(model(**batch)), batch)


@every_setting
@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_every_setting_gives_the_answers_of_transformers(
    settings: dict[str, Any], task: str
) -> None:
    model = tiny("deberta-v3", task, **settings)
    batch = ragged(model, LENGTHS)
    expected = _answers(model, batch)
    packed = _answers(fewer.attach(model), batch)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)


@needs_kernels
@every_setting
def test_every_setting_is_prepacked_as_a_whole(settings: dict[str, Any]) -> None:
    model = tiny("deberta-v3", **settings)
    batch = ragged(model, LENGTHS)
    expected = _answers(model, batch)
    model = optimized(model)
    attached = fewer.attachment(model)
    assert attached.engine(model.base_model).left == []
    torch.testing.assert_close(_answers(model, batch), expected, atol=1e-5, rtol=1e-5)


@needs_kernels
def test_positions_are_projected_once_and_again_after_an_edit() -> None:
    model = optimized(tiny("deberta-v3"))
    batch = ragged(model, LENGTHS)
    calls: list[int] = []
    norm = model.base_model.encoder.get_rel_embedding
    model.base_model.encoder.get_rel_embedding = lambda: calls.append(1) or norm()
    first = _answers(model, batch)
    assert len(calls) == 3  # layers
    assert torch.equal(_answers(model, batch), first)
    assert len(calls) == 3
    with torch.no_grad():
        model.base_model.encoder.rel_embeddings.weight.mul_(-1.0)
    edited = _answers(model, batch)
    assert not torch.allclose(edited, first, atol=1e-3)
    expected = _answers(fewer.detach(model), batch)
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("buckets", "distance"), [(-1, 40), (16, 40), (256, 512), (8, 9)])
def test_the_bucket_of_every_distance_is_that_of_transformers(buckets: int, distance: int) -> None:
    span = buckets if buckets > 0 else distance
    rows = bucket_table(span, buckets, distance)
    n = 3 * distance
    states = torch.empty(1, n, 1)
    relative = build_relative_position(states, states, buckets, distance)[0]
    expected = (relative + span).clamp(0, 2 * span - 1)
    reach = len(rows) // 2
    index = (torch.arange(n)[:, None] - torch.arange(n)).clamp(-reach, reach) + reach
    assert torch.equal(rows[index].long(), expected)


def test_distances_are_those_of_the_original_columns() -> None:
    model = tiny("deberta-v3", position_buckets=-1)
    batch = ragged(model, (12, 9))
    batch["attention_mask"][:, 3:6] = 0  # holes: their neighbours stay apart
    expected = _answers(model, batch)
    packed = _answers(fewer.attach(model), batch)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)


def test_positions_have_gradients_and_dropout_in_training() -> None:
    plain, model = (tiny("deberta-v3").train() for _ in range(2))
    batch = ragged(model, LENGTHS)
    for module in (plain, model):
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    gradients = []
    for module in (plain, fewer.attach(model)):
        module(**batch).logits.square().sum().backward()
        gradients.append(module.base_model.encoder.rel_embeddings.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    model.base_model.encoder.layer[1].attention.self.pos_dropout.p = 0.5
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, model(**batch).logits)


def test_the_convolution_of_some_checkpoints_is_refused_by_name() -> None:
    model = tiny("deberta-v3", conv_kernel_size=3)
    with pytest.raises(ValueError, match=r"conv_kernel_size must be 0.*got 3"):
        fewer.attach(model)


def test_repeated_last_layers_are_refused_by_name() -> None:
    model = tiny("deberta-v3")
    model.base_model.z_steps = 2
    with pytest.raises(ValueError, match=r"z_steps must .* got 2"):
        fewer.attach(model)


def test_random_blocks_of_each_head_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"num_random_blocks must be 0 .*got 1"):
        fewer.attach(tiny("deberta-v3"), BigBird(block_size=2, num_random_blocks=1))


def test_a_model_without_a_head_returns_states_and_no_pooler() -> None:
    model = tiny("deberta-v3", "Model")
    batch = ragged(model, LENGTHS)
    with torch.no_grad():
        expected = model(**batch)
        output = fewer.attach(model)(**batch)
    assert type(output) is type(expected)
    assert list(output) == list(expected) == ["last_hidden_state"]
    mask = batch["attention_mask"].bool()
    states, wanted = output.last_hidden_state[mask], expected.last_hidden_state[mask]
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)


def test_flops_count_the_products_with_positions() -> None:
    layer = bind(tiny("deberta-v3").base_model).layers[0].cost
    assert layer.relative == (2 * 32 * 16, 2 * 32 * 16)  # 32 rows, a width of 16
    assert layer.query == 2 * 16 * 16 + layer.relative[0]
    assert layer.key_value == 2 * 2 * 16 * 16 + layer.relative[1]


def test_pruned_tokens_leave_the_distances_of_the_others() -> None:
    model = fewer.attach(tiny("deberta-v3"), LTP(final_threshold=0.2))
    batch = ragged(model, LENGTHS)
    with torch.no_grad(), fewer.record() as traces:
        masked = []
        for apply in ("mask", "compact"):
            with fewer.applying(model, apply):
                masked.append(model(**batch).logits)
    assert float(traces[1].layers[-1].keys.sum()) < sum(LENGTHS)
    torch.testing.assert_close(*masked, atol=1e-5, rtol=1e-5)
