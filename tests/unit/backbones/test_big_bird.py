import pytest
import torch
from transformers.models.big_bird import modeling_big_bird

import fewer
from fewer.backbones import bind
from fewer.kernels import Pattern
from tests.tiny import ragged, text, tiny

BLOCK, RANDOM = 4, 2
FULL_UP_TO = (5 + 2 * RANDOM) * BLOCK


def _big_bird(task="TokenClassification", **settings):
    sizes = {"block_size": BLOCK, "num_random_blocks": RANDOM, "max_position_embeddings": 200}
    return tiny("big-bird", task, **sizes | settings)


def _run(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _ids(columns, rows=2):
    return torch.randint(5, 60, (rows, columns), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("columns", [FULL_UP_TO + 1, 44, 90, 160])
@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
def test_block_attention_equals_transformers_with_the_same_random_blocks(
    kernel, columns, monkeypatch
):
    """transformers draws in training mode only; its draw is replaced by that of fewer."""
    model = _big_bird(
        attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0, classifier_dropout=0.0
    )

    def draw(self, *_, **__):
        pattern = Pattern.bigbird(BLOCK, RANDOM, self.seed)
        table = pattern.draw_blocks(-(-columns // BLOCK), 2)[
            :, 1:-1
        ]  # the end blocks read all keys
        assert (table >= 0).all()
        return list(table.numpy())

    kind = modeling_big_bird.BigBirdBlockSparseAttention
    monkeypatch.setattr(kind, "_bigbird_block_rand_mask_with_head", draw)
    ids = _ids(columns)
    plain = _run(model.train(), ids)
    packed = _run(fewer.attach(model, kernel=kernel), ids)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("columns", [1, 7, FULL_UP_TO])
def test_a_text_of_few_blocks_has_full_attention_as_in_transformers(columns):
    model = _big_bird()
    plain = _run(model, _ids(columns))
    packed = _run(fewer.attach(model), _ids(columns))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_a_short_text_does_not_depend_on_a_long_one_in_its_batch():
    model = fewer.attach(_big_bird())
    ids = _ids(160, rows=3)
    mask = (torch.arange(160) < torch.tensor([160, 9, 70])[:, None]).long()
    batch = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            alone = model(**text(batch, row)).logits[0]
            torch.testing.assert_close(alone, together[row, : len(alone)], atol=1e-5, rtol=0)


def test_a_short_batch_changes_no_later_output():
    model = fewer.attach(_big_bird())
    before = _run(model, _ids(160))
    _run(model, _ids(5))
    assert torch.equal(_run(model, _ids(160)), before)


def test_training_and_inference_compute_the_same_function():
    model = fewer.attach(_big_bird(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0))
    model.config.classifier_dropout = 0.0
    model.dropout.p = 0.0
    torch.testing.assert_close(
        _run(model.train(), _ids(160)), _run(model.eval(), _ids(160)), atol=1e-5, rtol=0
    )


def test_each_layer_draws_its_own_blocks():
    patterns = [layer.pattern for layer in bind(_big_bird().base_model).layers]
    tables = [pattern.draw_blocks(40, 2) for pattern in patterns]
    assert not torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0][0], tables[0][1])  # nor do heads share blocks


def test_a_model_of_full_attention_has_no_pattern():
    layers = bind(_big_bird(attention_type="original_full").base_model).layers
    assert [layer.pattern for layer in layers] == [None] * 3


def test_scaled_embeddings_and_the_pooled_text_are_those_of_transformers():
    model = _big_bird("Model", rescale_embeddings=True)
    batch = ragged(model)
    with torch.no_grad():
        plain = model(**batch).pooler_output
        packed = fewer.attach(model)(**batch).pooler_output
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
