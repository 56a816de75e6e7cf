import pytest
import torch
from transformers.models.big_bird import modeling_big_bird

import fewer
from fewer.backbones import bind
from fewer.kernels import Pattern
from tests.tiny import ragged, text, tiny

BLOCK, DRAWN = 4, 2
FEW = (5 + 2 * DRAWN) * BLOCK


def _big_bird(task="TokenClassification", **settings):
    sizes = {"block_size": BLOCK, "num_random_blocks": DRAWN, "max_position_embeddings": 200}
    return tiny("big-bird", task, **sizes | settings)


def _read(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _ids(columns, rows=2):
    return torch.randint(5, 60, (rows, columns), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("columns", [FEW + 1, 44, 90, 160])
@pytest.mark.parametrize("kernel", ["sdpa", "reference"])
def test_blocks_are_read_as_in_transformers_while_it_draws_the_same(kernel, columns, monkeypatch):
    """transformers draws in training mode only; it is given what is drawn here."""
    model = _big_bird(
        attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0, classifier_dropout=0.0
    )

    def drawn(self, *_, **__):
        pattern = Pattern.bigbird(BLOCK, DRAWN, self.seed)
        table = pattern.draw_blocks(-(-columns // BLOCK), 2)[:, 1:-1]  # ends read all anyway
        assert (table >= 0).all()
        return list(table.numpy())

    kind = modeling_big_bird.BigBirdBlockSparseAttention
    monkeypatch.setattr(kind, "_bigbird_block_rand_mask_with_head", drawn)
    ids = _ids(columns)
    plain = _read(model.train(), ids)
    packed = _read(fewer.attach(model, kernel=kernel), ids)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("columns", [1, 7, FEW])
def test_a_text_of_few_blocks_is_read_in_full_as_in_transformers(columns):
    model = _big_bird()
    plain = _read(model, _ids(columns))
    packed = _read(fewer.attach(model), _ids(columns))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)


def test_a_short_text_beside_a_long_one_is_read_as_alone():
    model = fewer.attach(_big_bird())
    ids = _ids(160, rows=3)
    mask = (torch.arange(160) < torch.tensor([160, 9, 70])[:, None]).long()
    batch = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            alone = model(**text(batch, row)).logits[0]
            torch.testing.assert_close(alone, together[row, : len(alone)], atol=1e-5, rtol=0)


def test_a_short_batch_changes_no_later_answer():
    model = fewer.attach(_big_bird())
    before = _read(model, _ids(160))
    _read(model, _ids(5))
    assert torch.equal(_read(model, _ids(160)), before)


def test_training_and_inference_compute_the_same_function():
    model = fewer.attach(_big_bird(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0))
    model.config.classifier_dropout = 0.0
    model.dropout.p = 0.0
    torch.testing.assert_close(
        _read(model.train(), _ids(160)), _read(model.eval(), _ids(160)), atol=1e-5, rtol=0
    )


def test_each_layer_draws_its_own_blocks():
    patterns = [layer.pattern for layer in bind(_big_bird().base_model).layers]
    tables = [pattern.draw_blocks(40, 2) for pattern in patterns]
    assert not torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0][0], tables[0][1])  # nor do heads share theirs


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
