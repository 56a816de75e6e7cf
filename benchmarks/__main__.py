"""Run the benchmarks: `python -m benchmarks [NAME ...]`, all of them by default.

A benchmark is a list of `fewer` commands (or a script here), so each can be run by hand.
Training goes on where it was interrupted. Rows are added to `benchmarks/results/NAME.jsonl`;
`scripts/tables.py` makes the tables of README and docs from them. The data lies in
`../shared/data` (or `FEWER_DATA`).
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.attention_answers import commands as attention_answers
from benchmarks.certified import commands as certified
from benchmarks.long_texts import commands as long_texts
from benchmarks.questions import hops, settings, squad
from benchmarks.tokens_remaining import commands as tokens_remaining
from benchmarks.training_free import commands as training_free
from benchmarks.training_free import pairs as training_free_pairs
from fewer.hf.side_file import method_from

DATA = Path(os.environ.get("FEWER_DATA", "../shared/data"))
RESULTS = Path("benchmarks/results")
SEEDS = (42, 43, 44)
SQUAD = Path("runs/data/squad/dev.jsonl")
THREADS = sorted({1, os.cpu_count() or 1})
PROGRAM = "benchmarks.training"
COMPARED = (
    *("sst2", "ag-news", "imdb-exits"),
    *("squad-skim", "squad-pages", "squad-unseen", "squad-pages-unseen"),
    *("squad-two-stage", "squad-studies"),  # of models that squad-unseen trains
    "squad-e5",  # of the model of `benchmarks.e5`
)
_WIDE = ("--shape", "bert-base", "--texts", "80", "--pairs", "24")


def _trained(
    recipe: str, seed: int, train: str, tests: list[str], rows: int | None = None
) -> list[list[str]]:
    """Train a recipe with a seed, then score and time the result on each test set.

    It is held against a dense model that trained for as many epochs.
    """
    run = f"runs/{recipe}-{seed}"
    fit = ["fit", "--recipe", f"recipes/{recipe}.yaml", "--train", str(DATA / train)]
    fit += ["--seed", str(seed), "--output", run, "--resume"]
    longer, baseline = _longer(recipe, seed, "--train", str(DATA / train))
    commands = [fit, longer]
    for test in tests:
        evaluate = ["evaluate", f"{run}/model", "--data", str(DATA / test), "--threads", "1"]
        evaluate += ["--baseline", baseline, "--report", f"{run}/report.html"]
        evaluate += ["--results", str(RESULTS / f"{recipe}.jsonl")]
        commands.append(evaluate + (["--limit", str(rows)] if rows else []))
    return commands


def _longer(recipe: str, seed: int, *options: str) -> tuple[list[str], str]:
    """Train a recipe's dense model for as many epochs as the method has in all; and its folder.

    Epochs of heads alone do not count: they leave the model as it was.
    """
    path = f"recipes/{recipe}.yaml"
    told: dict[str, Any] = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    phases = method_from(told["method"]).phases()
    epochs = told["dense"]["epochs"] + sum(one.epochs for one in phases if one.trains != "policy")
    run = f"runs/{recipe}-longer-{seed}"
    fit = ["fit", "--recipe", path, "--method", "dense", "--dense-epochs", f"{epochs:g}"]
    fit += ["--seed", str(seed), *options, "--output", run, "--resume"]
    return fit, f"{run}/model"


def _lengths(model: str, test: str, max_length: int) -> list[list[str]]:
    """Time batches of natural, mixed lengths."""
    bench = ["bench", model, "--data", str(DATA / test), "--max-length", str(max_length)]
    return [[*bench, "--threads", "1", "--results", str(RESULTS / "latency.jsonl")]]


def _int8() -> list[list[str]]:
    """Train LTP for the texts that are timed; then time both shapes."""
    run = "runs/imdb-512-ltp"
    fit = ["fit", "--recipe", "recipes/imdb-512-ltp.yaml", "--output", run, "--resume"]
    evaluate = ["evaluate", f"{run}/model", "--data", str(DATA / "imdb/test.jsonl.gz")]
    evaluate += ["--limit", "2000", "--baseline", "runs/training-free-imdb/0-dense/model"]
    evaluate += ["--threads", "1", "--results", str(RESULTS / "imdb-512-ltp.jsonl")]
    shapes = [["benchmarks.int8"], ["benchmarks.int8", "--shape", "bert-base"]]
    return [fit, evaluate, *shapes]


def _peers() -> list[list[str]]:
    """Time all runtimes on natural lengths, on 128 tokens, and on one text by its length.

    SQuAD lends its lengths only: no model here answers its questions. The last are classifiers that
    `training-free` trains and prunes.
    """
    sst2, imdb = "runs/sst2-ltp-42", "runs/imdb-ltp-42"
    review, pair = DATA / "imdb/test.jsonl.gz", ["--score-rows", "0", "--max-length", "512"]
    sweep = [word for tokens in (16, 32, 64, 256, 512) for word in ("--fixed-length", str(tokens))]
    quick = ["--exclude", "compile-fp32", "--exclude", "compile-bf16"]  # minutes to build
    profiles = [
        (imdb, review, ["--max-length", "512", "--runs", "12", "--batches", "3"]),
        (imdb, review, ["--max-length", "512", "--fixed-length", "128"]),
        (imdb, review, ["--max-length", "512", *sweep, "--batch", "1", *quick]),
        (sst2, DATA / "glue/sst2/dev.jsonl.gz", quick),
        (imdb, SQUAD, [*pair, "--runs", "12", "--batches", "3", *quick]),
    ]
    commands = []
    for threads in THREADS:
        for run, data, options in profiles:
            bench = ["bench", f"{run}/model", "--baseline", f"{run}/0-dense/model", "--peers"]
            bench += ["--data", str(data), "--threads", str(threads), *options]
            bench += quick if threads > 1 and quick[0] not in options else []
            commands.append([*bench, "--results", str(RESULTS / "peers.jsonl")])
    return commands + _untrained_peers([*quick, "--exclude", "hf-bf16"])


def _untrained_peers(options: list[str]) -> list[list[str]]:
    """Time all runtimes beside training-free pruning, one thread, in short runs."""
    texts = {"sst2": "glue/sst2/dev.jsonl.gz", "imdb": "imdb/test.jsonl.gz"}
    sweep = [word for tokens in (25, 64, 256, 512) for word in ("--fixed-length", str(tokens))]
    both = ["--fixed-length", "128", "--batch", "1", "--batch", "32"]
    profiles = [
        ("sst2", ["--runs", "6", "--batches", "3", "--score-rows", "300"]),
        ("imdb", ["--runs", "2", "--batches", "1", "--score-rows", "100"]),
        ("imdb", [*both, "--runs", "4", "--batches", "1", "--score-rows", "0"]),
        ("imdb", [*sweep, "--batch", "1", "--runs", "9", "--batches", "3", "--score-rows", "0"]),
    ]
    commands = []
    for task, words in profiles:
        run = f"runs/training-free-{task}"
        bench = ["bench", f"{run}-cumulative-0.6/model", "--baseline", f"{run}/model", "--peers"]
        bench += ["--data", str(DATA / texts[task]), "--threads", "1", *words, *options]
        bench += ["--max-length", "512"] if task == "imdb" else []
        commands.append([*bench, "--results", str(RESULTS / "peers.jsonl")])
    return commands


def _squad_pairs() -> None:
    """Write SQuAD's questions and contexts as rows, once; their label says nothing."""
    if SQUAD.exists():
        return
    with gzip.open(DATA / "squad/dev-v1.1.json.gz", "rt", encoding="utf-8") as stream:
        paragraphs = [one for article in json.load(stream)["data"] for one in article["paragraphs"]]
    SQUAD.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question": asked["question"], "context": paragraph["context"], "label": 0}
        for paragraph in paragraphs
        for asked in paragraph["qas"]
    ]
    SQUAD.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _speed() -> list[list[str]]:
    """Time training on long and on short texts, with dropout as the model has it and without."""
    imdb, sst2 = str(DATA / "imdb/train.jsonl.gz"), str(DATA / "glue/sst2/train.jsonl.gz")
    return [
        [PROGRAM, imdb, "256", "0.1", "32", "3"],
        [PROGRAM, imdb, "256", "0.0", "32", "3"],
        [PROGRAM, sst2, "64", "0.1", "32", "40"],
    ]


def _precisions() -> list[list[str]]:
    """Train on the same 6,000 texts for one epoch in fp32 and in bf16, and score both."""
    commands = []
    for precision in ("fp32", "bf16"):
        run = f"runs/sst2-{precision}"
        fit = ["fit", "--recipe", "recipes/sst2-ltp.yaml", "--method", "dense", "--limit", "6000"]
        fit += ["--train", str(DATA / "glue/sst2/train.jsonl.gz"), "--dense-epochs", "1"]
        fit += ["--batch-size", "32", "--seed", "42", "--precision", precision]
        evaluate = ["evaluate", f"{run}/model", "--data", str(DATA / "glue/sst2/dev.jsonl.gz")]
        evaluate += ["--no-latency", "--report", f"{run}/report.html", "--threads", "1"]
        evaluate += ["--results", str(RESULTS / "precision.jsonl")]
        commands += [[*fit, "--output", run, "--resume"], evaluate]
    return commands


def benchmarks() -> dict[str, list[list[str]]]:
    """Name every benchmark and its commands."""
    imdb = "imdb/train.jsonl.gz", ["imdb/test.jsonl.gz"], 5000
    sst2 = "glue/sst2/train.jsonl.gz", ["glue/sst2/dev.jsonl.gz", "glue/sst2/test.jsonl.gz"]
    model, texts = "runs/imdb-ltp-42/model", "imdb/test.jsonl.gz"
    return {
        "imdb": [command for seed in SEEDS for command in _trained("imdb-ltp", seed, *imdb)],
        "sst2": [command for seed in SEEDS for command in _trained("sst2-ltp", seed, *sst2)],
        "latency": _lengths(model, texts, 256) + _lengths(model, texts, 512),
        "peers": _peers(),
        "score": _score(),
        "exits": _exits(),
        "tagging": _tagging(),
        "joint": _joint(),
        "squad": squad(DATA, RESULTS),
        "skim-settings": settings(DATA, RESULTS),
        "skim-oracle": [["benchmarks.skim_oracle"]],
        "ltp-limits": _ltp_limits(),
        "hops": hops(DATA, RESULTS),
        "training": _speed() + _precisions(),
        "training-free": training_free(DATA, RESULTS),
        "training-free-pairs": training_free_pairs(DATA, RESULTS),
        "attention-answers": attention_answers(DATA),
        "tokens-remaining": tokens_remaining(DATA),
        "compare": _e5_model("latin") + [_compared(name) for name in COMPARED],
        "glue-ltp": _glue(),
        "length-shift": [["benchmarks.length_shift"]],
        "certificate": certified(DATA),
        "calibration": [["benchmarks.calibration", str(THREADS[-1])]],
        "reranking": [["benchmarks.reranking"]],
        "embedding": [["benchmarks.embedding"], ["benchmarks.embedding", *_WIDE]],
        "embedding-memory": [["benchmarks.embedding_memory"]],
        "embedding-pruning": [*_e5_model("latin"), ["benchmarks.embedding_pruning"]],
        "lengths": [["benchmarks.lengths"]],
        "length-distributions": [["benchmarks.length_distributions"]],
        "backbones": [["benchmarks.backbones"]],
        "deberta": [["benchmarks.deberta"]],
        "gliner": [["benchmarks.gliner"]],
        "int8": _int8(),
        "busy-core": [["benchmarks.busy_core"]],
        "int8-scores": _int8_scores(),
        "selection-cost": [["benchmarks.selection_cost"]],
        "long-texts": long_texts(),
        "lra": [["lra", "run", "listops,text,pathfinder", "all", "--threads", "1", "--seed", "42"]],
    }


def _compared(name: str) -> list[str]:
    """Compare methods, each trained for as many steps."""
    compare = ["compare", "--recipe", f"recipes/{name}-compare.yaml", "--threads", "1", "--resume"]
    output = ["--output", f"runs/compare-{name}", "--results", str(RESULTS / "compare.jsonl")]
    return [*compare, *output]


def _glue() -> list[list[str]]:
    """Compare LTP, its published rule and cut models on five tasks of GLUE."""
    tests = {"rte": "dev", "mrpc": "test", "stsb": "test", "qnli": "dev", "qqp": "dev"}
    trains = {"qnli": "train_rebuilt"}
    commands = []
    for name, test in tests.items():
        folder = DATA / "glue" / name
        data = ["--train", str(folder / f"{trains.get(name, 'train')}.jsonl.gz")]
        data += ["--test", str(folder / f"{test}.jsonl.gz"), "--threads", "1", "--resume"]
        compare = ["compare", "--recipe", "recipes/glue-ltp.yaml", *data]
        output = ["--output", f"runs/glue-ltp-{name}", "--results", str(RESULTS / "compare.jsonl")]
        commands.append([*compare, *output])
    return commands


def _int8_scores() -> list[list[str]]:
    """Score a tagger and a reader of questions in int8 and bf16 beside fp32."""
    tagger, reader = "runs/conll2003-dense-42", "runs/compare-squad-skim/seed-42/start"
    fit = ["fit", "--recipe", "recipes/conll2003-minilm-tokee.yaml", "--method", "dense"]
    models = {tagger: DATA / "conll2003/test.jsonl.gz", reader: DATA / "squad/dev-v1.1.json.gz"}
    options = ["--no-latency", "--threads", "1", "--limit", "4000"]
    options += ["--results", str(RESULTS / "int8-scores.jsonl")]
    scored = [
        ["evaluate", f"{model}/model", "--data", str(data), "--precision", precision, *options]
        for model, data in models.items()
        for precision in ("int8", "bf16")
    ]
    return [
        [*fit, "--seed", "42", "--output", tagger, "--resume"],
        _compared("squad-skim"),
        *scored,
    ]


def _ltp_limits() -> list[list[str]]:
    """Look at what costs LTP its score on questions."""
    folder = "runs/compare-squad-skim/seed-42"
    models = [f"{folder}/ltp-0.7/model", f"{folder}/start/model"]
    return [_compared("squad-skim"), ["benchmarks.ltp_limits", *models]]


def _exits() -> list[list[str]]:
    """Add exits to trained models, pruned and dense, and measure the whole curves."""
    tests = {"imdb": "imdb/test.jsonl.gz", "sst2": "glue/sst2/test.jsonl.gz"}
    commands = []
    for name, test in {**tests, "ag-news": "ag_news/test.jsonl.gz"}.items():
        recipe, pyramid = f"recipes/{name}-magic-pyramid.yaml", f"runs/{name}-magic-pyramid-42"
        fit = ["fit", "--recipe", recipe, "--seed", "42", "--resume"]
        # the two that `imdb` and `sst2` trained keep what LTP learned; the third trains it all
        pruned = f"runs/{name}-ltp-42" if name in tests else None
        dense = f"{pruned or pyramid}/0-dense/model"
        given = ["--model", f"{pruned}/model"] if pruned else []
        commands.append([*fit, *given, "--output", pyramid])
        epochs = {"imdb": "2", "sst2": "1", "ag-news": "3"}[name]
        exits = ["--model", dense, "--method", "fastbert", "--dense-epochs", "0"]
        exits += ["--set", f"epochs={epochs}", "--output", f"runs/{name}-fastbert-42"]
        commands.append([*fit, *exits])
        for run in (pyramid, f"runs/{name}-fastbert-42"):
            commands += _swept(run, dense, test, "exits")
    return commands


def _joint() -> list[list[str]]:
    """Train a pyramid step by step and at once, in as many epochs, on 2,000 texts."""
    fit = ["fit", "--recipe", "recipes/ag-news-magic-pyramid.yaml", "--limit", "2000", "--resume"]
    steps, joint = "runs/ag-news-2k-steps-42", "runs/ag-news-2k-joint-42"
    commands = [
        [*fit, "--seed", "42", "--output", steps],
        [*fit, "--seed", "42", "--dense-epochs", "0", "--set", "joint_epochs=9", "--output", joint],
    ]
    for run in (steps, joint):
        commands.append(_swept(run, f"{steps}/0-dense/model", "ag_news/test.jsonl.gz", "joint")[0])
    return commands


def _e5_model(name: str) -> list[list[str]]:
    """Build an encoder of E5-small where there is none yet."""
    folder, kept = f"runs/models/e5-small-{name}", {"latin": "latin", "zh": "chinese"}[name]
    if Path(folder).exists():
        return []
    return [["benchmarks.e5", folder, "--vocabulary", kept]]


def _tagging() -> list[list[str]]:
    """Train TOKEE; SENTEE takes over its heads; measure both against an equally long training."""
    tests = {
        **{"conll2003": "conll2003", "conll2003-minilm": "conll2003"},
        **{"resume": "resume_ner_zh", "ewt-pos": "ud_ewt_pos"},
    }
    commands = _e5_model("latin") + _e5_model("zh")
    for name, folder in tests.items():
        run, sentee = f"runs/{name}-tokee-42", f"runs/{name}-sentee-42"
        longer, baseline = _longer(f"{name}-tokee", 42)
        recipe = ["--recipe", f"recipes/{name}-tokee.yaml", "--seed", "42", "--resume"]
        commands.append(["fit", *recipe, "--output", run])
        taken = ["--model", f"{run}/1-exits/model", "--method", "sentee", "--output", sentee]
        commands += [["fit", *recipe, *taken], longer]
        for own in (run, sentee):
            test = f"{folder}/test.jsonl.gz"
            commands += _swept(own, baseline, test, "tagging")
    return commands


def _swept(run: str, dense: str, test: str, results: str) -> list[list[str]]:
    """Measure a model at every threshold on 2,000 rows of its test set, then the time it takes."""
    own = [f"{run}/model", "--baseline", dense, "--data", str(DATA / test), "--threads", "1"]
    swept = ["--sweep", "--no-latency", "--limit", "2000", "--report", f"{run}/report.html"]
    timed = ["--batch", "1", "--batch", "32", "--runs", "30"]
    return [
        ["evaluate", *own, *swept, "--results", str(RESULTS / f"{results}.jsonl")],
        ["bench", *own, *timed, "--results", str(RESULTS / f"{results}-latency.jsonl")],
    ]


def _score() -> list[list[str]]:
    """Time attention with and without the score."""
    return [["benchmarks.score_cost"]]


def main(names: list[str]) -> int:
    """Run the named benchmarks; the exit status is that of the first command that failed."""
    known = benchmarks()
    if any(name in ("-h", "--help") for name in names):
        print(f"{__doc__}\n{', '.join(known)}")
        return 0
    for name in names or list(known):
        if name not in known:
            print(f"unknown benchmark {name!r}; known: {', '.join(known)}", file=sys.stderr)
            return 2
        if name == "peers":
            _squad_pairs()
        for command in known[name]:
            own = command[0].startswith("benchmarks.")
            words = command if own else ["fewer", *command]
            print("python -m" if own else "fewer", *command, flush=True)
            status = subprocess.run([sys.executable, "-m", *words], check=False).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
