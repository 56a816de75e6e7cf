"""The table of training-free pruning: FLOPs, scores and a paired interval."""

from benchmarks.support.training_free import training_free_table


def _row(rule, target, accuracy, changed, **settings):
    def system(score, flops, **more):
        return {"metrics": {"accuracy": score}, "flops_per_text": flops, **more}

    return {
        "data": {"source": "data/imdb/test.jsonl.gz", "rows": 400},
        "method": {"name": "training_free", "args": {"rule": rule, "target": target} | settings},
        "systems": {
            "packed": system(0.9, 200.0),
            "method": system(accuracy, 200.0 * target, changed=changed),
        },
    }


def test_a_line_has_flops_scores_and_the_interval_of_the_difference():
    rows = [_row("cls", 0.5, 0.85, 0.16), _row("received", 0.5, 0.9, 0.04, search=True, merge=True)]
    lines = training_free_table([*rows, _row("cls", 0.8, 0.9, 0.0)]).splitlines()[2:]
    assert [line.split(" | ")[1:5] for line in lines] == [
        ["`cls`", "all", "no", "0.8"],
        ["`received`", "searched", "yes", "0.5"],  # the best of a target first
        ["`cls`", "all", "no", "0.5"],  # rows from before the search do not name it
    ]
    # sqrt(0.04 / 400) = 0.01; sqrt((0.16 - 0.05^2) / 400) = 0.0198
    assert "2.00x fewer | 0.9000 | 0.9000 | +0.0 ± 2.0 points | 4.0 % |" in lines[1]
    assert "0.8500 | -5.0 ± 3.9 points | 16.0 % |" in lines[2]
