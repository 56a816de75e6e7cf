"""The tables of the int8 benchmark."""

from benchmarks.support.int8 import int8_scores_table, int8_table


def test_times_scores_and_missing_peers_are_shown():
    times = {"fewer bf16": {"median": 2.0}, "fewer int8": {"median": 1.25}, "peer": {"median": 4.0}}
    speed = {name: {"median": 2.0 / each["median"]} for name, each in times.items()}
    score = {"accuracy": 0.91234, "agreement": 0.995, "difference": 0.01}
    row = {
        "processor": "a CPU",
        "cpu_ms": {"1x25": times, "mixed": times},
        "speed": {"1x25": speed, "mixed": speed},
        "scores": {"sst2": {"fewer bf16": score, "fewer int8": score, "texts": {"count": 872}}},
        "peers": {"nncf": "3.4"},
        "missing": {"openvino-int8": "ModuleNotFoundError"},
    }
    table = int8_table(row, "rows.jsonl")
    assert "| fewer int8 | 1.2 (1.60x) | 1.2 (1.60x) |" in table
    assert "| fewer int8 | 0.9123, 99.5% |" in table
    assert "sst2, 872 texts" in table
    assert table.count("| peer |") == 1  # it has no head, and no score
    assert "Missing: openvino-int8." in table
    row["scores"]["imdb"] = {"fewer int8": score, "texts": {"count": 500}}
    row["pruned"] = {"fewer int8, pruned": {"flops_share": 0.613}}
    table = int8_table(row, "rows.jsonl")
    assert "| fewer bf16 | 0.9123, 99.5% | - |" in table
    assert "share of the FLOPs of the imdb texts: training-free, 0.61." in table


def test_times_alone_have_no_table_of_scores():
    times, speed = {"fewer bf16": {"median": 2.0}}, {"fewer bf16": {"median": 1.0}}
    row = {"processor": "a CPU", "cpu_ms": {"1x25": times}, "speed": {"1x25": speed}}
    row |= {"scores": {}, "peers": {}, "missing": {}, "model": "random weights"}
    table = int8_table(row, "rows.jsonl")
    assert "Accuracy" not in table
    assert "medians of rounds in turn. Model: random weights. a CPU" in table


def test_scores_stand_beside_those_in_fp32_by_precision():
    def row(precision, score, changed):
        return {
            "data": {"source": "dev.json", "rows": 1000},
            "model": "runs/reader",
            "precision": precision,
            "systems": {
                "padded": {"metrics": {"f1": 0.8}},
                "packed": {"metrics": {"f1": score}, "changed": changed},
            },
        }

    lines = int8_scores_table([row("int8", 0.79, 0.04), row("bf16", 0.8, 0.01)]).splitlines()[2:]
    assert lines == [
        "| dev.json, 1,000 rows | runs/reader | bf16 | f1 | 0.8000 | 0.8000 | +0.00 | 1.00% |",
        "| dev.json, 1,000 rows | runs/reader | int8 | f1 | 0.8000 | 0.7900 | -1.00 | 4.00% |",
    ]
