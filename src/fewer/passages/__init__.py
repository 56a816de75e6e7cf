"""Passages read once through the lower layers and kept, for every question to come.

A model that reads question and passage apart below (`fewer.methods.attention.DeFormer`, alone or
stacked) turns a passage into the same states whatever is asked. `index` keeps those states in a
folder; `PassageIndex.ask` reads a question, joins it to what is kept, and goes on from there.
"""

from fewer.passages.asking import Answer, Flops, PassageIndex
from fewer.passages.building import index
from fewer.passages.store import Precision

__all__ = ["Answer", "Flops", "PassageIndex", "Precision", "index"]
