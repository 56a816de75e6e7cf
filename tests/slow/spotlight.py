"""Train on "where in the passage is the needle?"; prints scores and FLOPs as JSON.

A script and not a test, as `needle`: training imports what warns, which in tests is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import BertConfig, BertForQuestionAnswering

import fewer
from fewer.core.trace import record
from fewer.methods.pruning import BlockSkim
from fewer.training.fit import Schedule, fit
from tests.tiny import word_tokenizer

CLS, SEP, WHERE, NEEDLE, WORDS = 2, 3, 5, 6, 55
LENGTHS = (36, 69)  # of passages
METHOD = BlockSkim(block=8, threshold=0.1, balance=8.0, epochs=2.0, learning_rates=(3e-3, 3e-3))


def passages(rows: int, seed: int) -> Dataset:
    """Draw texts `[CLS] where [SEP] passage [SEP]`; the answer is the one needle."""
    draw = torch.Generator().manual_seed(seed)
    texts, places = [], []
    for _ in range(rows):
        length = int(torch.randint(*LENGTHS, (), generator=draw))
        passage = torch.randint(7, WORDS, (length,), generator=draw)
        spot = int(torch.randint(length, (), generator=draw))
        passage[spot] = NEEDLE
        texts.append([CLS, WHERE, SEP, *passage.tolist(), SEP])
        places.append(3 + spot)
    relevant = [
        [int(column == place) for column in range(len(text))]
        for text, place in zip(texts, places, strict=True)
    ]
    return Dataset.from_dict(
        {
            "input_ids": texts,
            "attention_mask": [[1] * len(text) for text in texts],
            "start_positions": places,
            "end_positions": places,
            "relevant": relevant,
            "length": [len(text) for text in texts],
        }
    )


def score(model: torch.nn.Module, rows: Dataset) -> tuple[float, float]:
    """Share of the questions answered (of one word, so it is the F1), and of the dense FLOPs."""
    columns = {name: rows[name] for name in ("input_ids", "attention_mask")}
    batch = word_tokenizer(80).pad(columns, return_tensors="pt")
    with torch.no_grad(), record() as traces:
        output = model(**batch)
    places = torch.tensor(rows["start_positions"])
    right = (output.start_logits.argmax(1) == places) & (output.end_logits.argmax(1) == places)
    share = fewer.attachment(model).spec.flops_ratio(traces[0])
    return float(right.float().mean()), float(share)


def main(output: Path) -> None:
    """Train, score on new texts, print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=80,
    )
    model = fit(
        BertForQuestionAnswering(config),
        METHOD,
        passages(2000, seed=1),
        tokenizer=word_tokenizer(80),
        output_dir=output,
        schedule=Schedule(batch_size=32, dropout=0.0, precision="fp32"),
    )
    test = passages(500, seed=2)
    f1, share = score(model, test)
    fewer.set_threshold(model, threshold=0.0)
    f1_all, share_all = score(model, test)
    print(json.dumps({"f1": f1, "share": share, "f1_all": f1_all, "share_all": share_all}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
