"""Train on "which of two needles is in this haystack?"; prints scores and FLOPs as JSON.

A script and not a test: `test_fit_reaches_a_score` runs it in a process that it can kill.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import fewer
from fewer.measure.evaluate import three_way
from fewer.measure.scorers import TextScorer
from fewer.training.fit import Schedule, dense_phase, fit

WORDS, CLS, NEEDLES = 60, 1, (2, 3)


def haystacks(rows: int, seed: int) -> Dataset:
    """Draw texts of 20 to 40 words with one needle each."""
    generator = torch.Generator().manual_seed(seed)
    texts, labels = [], []
    for _ in range(rows):
        length = int(torch.randint(20, 41, (), generator=generator))
        text = torch.randint(4, WORDS, (length,), generator=generator)
        label = int(torch.randint(2, (), generator=generator))
        text[int(torch.randint(length, (), generator=generator))] = NEEDLES[label]
        texts.append([CLS, *text.tolist()])
        labels.append(label)
    masks = [[1] * len(text) for text in texts]
    lengths = [len(text) for text in texts]
    columns = {"input_ids": texts, "attention_mask": masks, "labels": labels, "length": lengths}
    return Dataset.from_dict(columns)


def main(output: Path) -> None:
    """Train, score on new texts, print."""
    torch.set_num_threads(1)
    vocabulary = {str(number): number for number in range(WORDS)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="0")), pad_token="0"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    model = fit(
        BertForSequenceClassification(config),
        fewer.LTP(target=0.6, strength=1.0, epochs=(2, 2)),
        haystacks(4000, seed=1),
        tokenizer=tokenizer,
        output_dir=output,
        dense=dense_phase(4.0, 1e-3),
        schedule=Schedule(batch_size=64, dropout=0.0, precision="fp32", save_every=40),
        resume=True,
    )
    test = haystacks(1000, seed=2)
    scorer = TextScorer(test["labels"])
    found = three_way(model, test, tokenizer, scorer)
    dense = three_way(fewer.load(output / "0-dense" / "model"), test, tokenizer, scorer)
    print(
        json.dumps(
            {
                "accuracy": found["method"]["metrics"]["accuracy"],
                "accuracy_dense": dense["packed"]["metrics"]["accuracy"],
                "kept": found["method"]["flops_per_text"],
                "dense": found["packed"]["flops_per_text"],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
