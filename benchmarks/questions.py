"""The commands of the benchmarks of question answering: SQuAD, Block-Skim's settings, two hops."""

from __future__ import annotations

from pathlib import Path

__all__ = ["hops", "settings", "squad"]

DENSE = "runs/squad-dense-42/0-dense/model"
SKIM = ["--recipe", "recipes/squad-block-skim.yaml"]
LONGER = "runs/squad-longer-43/model"
TIMED = "runs/squad-block-skim-two-stage-44"
# recipes of predictors that see states, and their runs
SIGHTED = {
    "squad-block-skim-states": "runs/squad-block-skim-states-43",
    "squad-block-skim-two-stage": TIMED,
}
BATCHES = ["--batch", "1", "--batch", "16", "--runs", "20"]
ROWS = "600"  # of the dev set's 10,570 questions, drawn with the seed
MORE_ROWS = "2000"  # where a point of F1 is to be told
# thresholds at which about half of the FLOPs are taken, to be timed; their answers are far worse
HALF = {"block-skim": "0.9", "block-skim-first": "0.7"}
TAUGHT = "2000"  # of the training set's 87,599, where settings are compared
PREDICTED = "300"  # of those, to compare predictors

# what is changed, one thing at a time, where the predictors alone are trained on the dense model
CHANGED = {
    "diagonal": [],
    "first": ["sees=first"],
    "whole": ["sees=whole"],
    "unbalanced": ["balance=1"],
    "block-16": ["block=16"],
    "block-64": ["block=64"],
    "states": ["sees=states"],
}


def squad(data: Path, results: Path) -> list[list[str]]:
    """Train dense, Block-Skim, LTP and DeFormer, and put them side by side."""
    dense = "recipes/squad-ltp.yaml", ["--method", "dense"]
    given = ["--model", DENSE, "--dense-epochs", "0"]
    first = ["sees=first", "alpha=1.0", "epochs=1", "learning_rates=[5.0e-5, 1.0e-3]"]
    changed = [word for change in first for word in ("--set", change)]
    trained = {
        "dense": dense,
        "block-skim": ("recipes/squad-block-skim.yaml", []),
        "block-skim-first": (
            "recipes/squad-block-skim.yaml",
            [*given, "--limit", "6000", *changed],
        ),
        "ltp": ("recipes/squad-ltp.yaml", given),
        "deformer": ("recipes/squad-deformer.yaml", given),
    }
    test = str(data / "squad/dev-v1.1.json.gz")
    commands = []
    for name, (recipe, options) in trained.items():
        run = f"runs/squad-{name}-42"
        fit = ["fit", "--recipe", recipe, "--seed", "42", *options, "--output", run, "--resume"]
        commands.append(fit)
    for name in list(trained)[1:]:
        own = [f"runs/squad-{name}-42/model", "--baseline", DENSE, "--data", test]
        own += ["--threads", "1"]
        swept = ["--sweep", "--predictors"] if name in HALF else []
        measured = [
            "--limit",
            ROWS,
            "--no-latency",
            "--report",
            f"runs/squad-{name}-42/report.html",
        ]
        commands.append(
            ["evaluate", *own, *swept, *measured, "--results", str(results / "squad.jsonl")]
        )
        timed = [*BATCHES, *(["--threshold", HALF[name]] if name in HALF else [])]
        commands.append(["bench", *own, *timed, "--results", str(results / "squad-latency.jsonl")])
    commands.append(["benchmarks.passages", "runs/squad-deformer-42/model", DENSE, "300", "15"])
    return commands + _states(test, results)


def _states(test: str, results: Path) -> list[list[str]]:
    """Train on twice as many questions: every token; and predictors that see states."""
    fits = {"squad-longer": LONGER.removesuffix("/model"), **SIGHTED}
    commands = [
        ["fit", "--recipe", f"recipes/{recipe}.yaml", "--output", run, "--resume"]
        for recipe, run in fits.items()
    ]
    against = ["--baseline", LONGER, "--data", test, "--threads", "1"]
    read = ["--limit", MORE_ROWS, "--no-latency", "--sweep", "--predictors"]
    for folder in (*SIGHTED.values(), f"{TIMED}/0-two_stage"):  # the last: predictors alone
        written = ["--report", f"{folder}/report.html", "--results", str(results / "squad.jsonl")]
        commands.append(["evaluate", f"{folder}/model", *against, *read, *written])
    timed = [f"{TIMED}/model", *against, *BATCHES]
    commands.append(["bench", *timed, "--results", str(results / "squad-latency.jsonl")])
    return commands


def settings(data: Path, results: Path) -> list[list[str]]:
    """Train predictors on the dense model, a setting at a time."""
    train, test = str(data / "squad/train-v1.1.json.gz"), str(data / "squad/dev-v1.1.json.gz")
    found = str(results / "skim-settings.jsonl")
    judged = [
        "--data",
        test,
        "--threads",
        "1",
        "--limit",
        PREDICTED,
        "--no-latency",
        "--predictors",
    ]
    commands = []
    for name, changes in CHANGED.items():
        run = f"runs/skim-{name}"
        fit = ["fit", *SKIM, "--model", DENSE, "--train", train, "--limit", TAUGHT]
        for change in ("training=two_stage", "epochs=1", *changes):
            fit += ["--set", change]
        commands.append([*fit, "--output", run, "--resume"])
        own = [f"{run}/model", "--baseline", DENSE, "--report", f"{run}/report.html"]
        commands.append(["evaluate", *own, *judged, "--results", found])
    return commands


def hops(data: Path, results: Path) -> list[list[str]]:
    """Train on answers alone and on answers with evidence, where an answer takes two paragraphs."""
    commands = []
    for evidence in ("false", "true"):
        run = f"runs/hotpot-evidence-{evidence}"
        fit = [
            "fit",
            *SKIM,
            "--model",
            DENSE,
            "--train",
            str(data / "hotpotqa/train_slice.jsonl.gz"),
        ]
        fit += ["--set", f"evidence={evidence}", "--set", "epochs=3", "--output", run, "--resume"]
        commands.append(fit)
        for test in ("hotpotqa/dev_slice.jsonl.gz", "musique/train_slice.jsonl.gz"):
            own = [f"{run}/model", "--data", str(data / test), "--threads", "1", "--no-latency"]
            own += ["--report", f"{run}/report.html", "--predictors"]
            commands.append(["evaluate", *own, "--results", str(results / "hops.jsonl")])
    return commands
