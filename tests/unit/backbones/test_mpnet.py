"""MPNet's bias of each head and distance."""

from __future__ import annotations

import torch

import fewer
from fewer.backbones import bind
from tests.isas import needs_kernels, optimized
from tests.tiny import ragged, tiny


def test_the_bias_of_every_distance_is_that_of_transformers() -> None:
    encoder = tiny("mpnet", "Model")
    relative = bind(encoder).layers[0].relative_scores()
    assert relative is not None
    assert relative.bias is not None
    bias = relative.bias[relative.buckets(torch.arange(300), torch.arange(300))]
    expected = encoder.encoder.compute_position_bias(torch.empty(1, 300, 16))[0]
    assert torch.equal(bias.permute(2, 0, 1), expected)


@needs_kernels
def test_texts_beyond_the_last_bucket_have_the_answers_of_transformers() -> None:
    model = tiny("mpnet", max_position_embeddings=310)
    batch = ragged(model, (40, 3))
    batch = {name: values.repeat(1, 7) for name, values in batch.items()}
    batch["attention_mask"][0] = 1
    batch["input_ids"] = torch.randint(5, 60, batch["input_ids"].shape)
    batch["attention_mask"][1] = (torch.arange(280) < 129).long()
    with torch.no_grad():
        expected = model(**batch).logits
        packed = fewer.attach(model)(**batch).logits
        prepacked = optimized(model)(**batch).logits
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prepacked, expected, atol=1e-5, rtol=1e-5)
