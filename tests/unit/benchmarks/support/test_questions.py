from benchmarks.support.questions import kept_table, predictors_table, questions_table


def _system(f1, megas, **more):
    return {"metrics": {"f1": f1, "exact_match": f1 / 2}, "flops_per_text": megas * 1e6, **more}


def _point(threshold, f1, megas):
    """Measure at one threshold; the half that chooses it scores as all, the other 0.01 less."""
    flops = {"dense_flops_per_text": 2000e6, "heads_flops_per_text": 0.0, "texts": 1000}
    halves = [_system(f1 - less, megas, **flops) for less in (0.0, 0.01)]
    return {"threshold": threshold, **_system(f1, megas, **flops), "halves": halves}


def _row(name="block_skim", sweep=(), **more):
    return {
        "model": f"runs/{name}/model",
        "baseline": "runs/dense/0-dense/model",
        "data": {"hash": "h", "rows": 2000, "source": "data/squad/dev.json.gz"},
        "method": {"name": name, "args": {}},
        "systems": {
            "padded": _system(0.80, 4000),
            "packed": _system(0.80, 2000),
            "method": _system(0.795, 1000),
        },
        "sweep": list(sweep),
        **more,
    }


def _cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_systems_stand_side_by_side_and_a_threshold_is_that_of_the_cheapest_equal_point():
    sweep = [_point(None, 0.81, 2050), _point(0.05, 0.792, 900), _point(0.5, 0.7, 500)]
    lines = _cells(questions_table([_row(sweep=sweep), _row("ltp")]))
    assert [line[1:4] for line in lines[2:]] == [
        ["dense/0-dense", "padded Hugging Face", "0.8000"],
        ["dense/0-dense", "packed", "0.8000"],
        ["block_skim", "block_skim, nothing skipped", "0.8100"],
        ["block_skim", "block_skim, threshold 0.05, the other half", "0.7820"],
        ["ltp", "ltp", "0.7950"],
    ]
    assert [line[6] for line in lines[2:]] == [
        "2.0x more",
        "as many",
        "1.03x more",
        "2.2x fewer",
        "2.0x fewer",
    ]
    assert lines[5][0] == "1,000 of 2,000"
    assert [line[7] for line in lines[2:]] == ["0.8000"] * 5


def test_kept_passages_have_a_size_and_what_reads_all_has_none():
    times = {"latency_ms": {"1": {"speedup": 1.5}, "16": {"speedup": 2.0}}}
    systems = {"dense": _system(0.8, 2000, **times), "fp16": _system(0.79, 1000, **times)}
    row = {"systems": systems, "index": {"fp16": {"bytes_per_passage": 136_000}}}
    dense, kept = _cells(kept_table([row]))[2:]
    assert dense[0] == "dense"
    assert dense[5] == "-"
    assert kept[0] == "kept, fp16"
    assert kept[4:] == ["2.0x fewer", "136", "1.5x faster", "2.0x faster"]


def test_predictors_are_told_by_layer_and_on_the_mean():
    args = {"training": "joint", "sees": "first", "block": 32, "balance": 20.0}
    args |= {"evidence": False, "alpha": 0.1}
    judged = [
        {"layer": layer, "auc": auc, "recall": 0.5, "accuracy": 0.9}
        for layer, auc in ((0, 0.6), (1, 0.8))
    ]
    row = _row(predictors=judged, sweep=[_point(None, 0.81, 2050)])
    row["method"]["args"] = args
    (line,) = _cells(predictors_table([row]))[2:]
    assert line[0] == "squad"
    assert line[1].startswith("training joint, sees first, block 32")
    assert line[2:] == ["0.8100", "1.03x more", "0.500", "0.900", "0.700", "0.600", "0.800"]
