"""A model whose encoder runs in CTranslate2: of the BERT family, as far as it converts them."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CTranslate2Encoder", "build_encoder"]

_TYPES = {"fp32": "float32", "int8": "int8"}


class CTranslate2Encoder(nn.Module):
    """Stand in for the encoder of a Hugging Face model; its pooler stays in torch."""

    def __init__(self, encoder: Any, pooler: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooler = pooler

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        **settings: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the states (B, N, D), of no meaning at padding, and those pooled (B, D)."""
        ids, types = (
            None if values is None else _remove_padding(values, attention_mask)
            for values in (input_ids, token_type_ids)
        )
        extra = {} if types is None else {"token_type_ids": types}
        outputs = self.encoder.forward_batch(ids, **extra)
        states = torch.from_numpy(np.array(outputs.last_hidden_state))
        pooled = None if self.pooler is None else self.pooler(states)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


def build_encoder(model: PreTrainedModel, precision: str, threads: int) -> PreTrainedModel:
    """Return a copy of a model with its encoder in CTranslate2.

    Raises `ValueError` for an architecture that CTranslate2 does not convert.
    """
    import ctranslate2

    class Converter(ctranslate2.converters.TransformersConverter):  # type: ignore[misc]
        """Convert a model in memory; the vocabulary is numbers, since texts come as ids."""

        def load_model(self, model_class: type, path: str, **options: Any) -> Any:
            source: Any = model if isinstance(model, model_class) else model.base_model
            source = copy.deepcopy(source)  # the converter changes weights in place
            if not hasattr(source.config, "position_embedding_type"):
                # transformers 5 knows no other, and no longer says so; the converter asks
                source.config.position_embedding_type = "absolute"
            return source

        def load_tokenizer(self, tokenizer_class: type, path: str, **options: Any) -> Any:
            names = {str(number): number for number in range(model.config.vocab_size)}
            return SimpleNamespace(
                get_vocab=lambda: names, bos_token="0", eos_token="0", unk_token="0"
            )

    with tempfile.TemporaryDirectory(prefix="fewer-ctranslate2-") as folder:
        model.config.save_pretrained(folder)
        converted = str(Path(folder) / "converted")
        Converter(folder).convert(converted, quantization=_TYPES[precision])
        encoder = ctranslate2.Encoder(
            converted, device="cpu", compute_type=_TYPES[precision], intra_threads=threads
        )
    duplicate: PreTrainedModel = copy.deepcopy(model).eval()
    pooler = getattr(duplicate.base_model, "pooler", None)
    setattr(duplicate, duplicate.base_model_prefix, CTranslate2Encoder(encoder, pooler))
    return duplicate


def _remove_padding(values: Tensor, mask: Tensor) -> list[list[int]]:
    rows = zip(values, mask != 0, strict=True)
    return [row[real].tolist() for row, real in rows]
