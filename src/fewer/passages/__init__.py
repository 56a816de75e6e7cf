"""Cache the lower layers' states of passages for question answering.

A model whose lower layers encode question and passage separately
(`fewer.methods.attention.DeFormer`, alone or in a stack) computes the same states of a passage for
every question. `index` stores these states in a folder; `PassageIndex.ask` encodes a question,
joins it to the stored states and computes the upper layers.
"""

from fewer.passages.asking import Answer, Flops, PassageIndex
from fewer.passages.building import index
from fewer.passages.store import Precision

__all__ = ["Answer", "Flops", "PassageIndex", "Precision", "index"]
