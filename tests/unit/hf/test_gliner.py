"""A GLiNER object is attached itself: its text encoder is packed, and its logits stay the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fewer
from tests.tiny import ragged, tiny

TEXTS = ["good film", "a dull plot and a very bad film", "rare", "a film of rare beauty"]
LABELS = ["person", "film"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "deberta-v2": {
        **{"relative_attention": True, "position_buckets": 8, "share_att_key": True},
        **{"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "type_vocab_size": 0},
    },
    "modernbert": {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
}


class Gliner(nn.Module):
    """Holds an encoder where the objects of gliner do."""

    __module__ = "gliner.model"

    def __init__(self, encoder: nn.Module | None) -> None:
        super().__init__()
        self.config = SimpleNamespace(fuse_layers=False)
        self.model = SimpleNamespace(
            token_rep_layer=SimpleNamespace(bert_layer=SimpleNamespace(model=encoder))
        )


def test_its_text_encoder_is_attached_and_detached() -> None:
    encoder = tiny("deberta-v3", "Model")
    batch = ragged(encoder)
    expected = encoder(**batch).last_hidden_state
    holder = Gliner(encoder)
    assert fewer.attach(holder) is holder
    assert fewer.attachment(encoder).method == fewer.Dense()
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(
        encoder(**batch).last_hidden_state[mask], expected[mask], rtol=1e-4, atol=1e-5
    )
    fewer.optimize(holder, precision="fp32")
    torch.testing.assert_close(
        encoder(**batch).last_hidden_state[mask], expected[mask], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="save_pretrained"):
        fewer.save(holder, "unused")
    fewer.detach(holder)
    assert torch.equal(encoder(**batch).last_hidden_state, expected)


def test_an_object_without_a_text_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="text encoder"):
        fewer.attach(Gliner(None))
    fused = Gliner(tiny("deberta-v3", "Model"))
    fused.config.fuse_layers = True
    with pytest.raises(ValueError, match="fuse_layers"):
        fewer.attach(fused)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("settings", [{}, {"span_mode": "token_level"}], ids=str)
@pytest.mark.filterwarnings("ignore")  # of its package
def test_logits_of_the_real_package_stay_the_same(
    kind: str, settings: dict[str, Any], model_folder: Any
) -> None:
    gliner = pytest.importorskip("gliner")
    torch.manual_seed(0)
    inner = {"model_type": kind, "vocab_size": 200, "intermediate_size": 32, **SIZES}
    config: dict[str, Any] = {"model_name": str(model_folder), "hidden_size": 12, **settings}
    config |= {"encoder_config": inner | ENCODERS[kind], "vocab_size": 200, "max_width": 4}
    model = gliner.GLiNER.from_config(config, backbone_from_pretrained=False).eval()
    prepared = model.prepare_batch(TEXTS, LABELS)
    batch = model.collate_batch(prepared["input_x"], prepared["entity_types"])
    expected = model.run_batch(batch).logits
    fewer.attach(model)
    torch.testing.assert_close(model.run_batch(batch).logits, expected, rtol=1e-4, atol=1e-5)
    fewer.optimize(model, precision="fp32")
    torch.testing.assert_close(model.run_batch(batch).logits, expected, rtol=1e-4, atol=1e-5)
    assert len(model.inference(TEXTS, LABELS, threshold=0.01)) == len(TEXTS)
