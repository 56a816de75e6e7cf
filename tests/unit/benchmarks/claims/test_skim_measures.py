"""What the claims on Block-Skim read from comparisons."""

import json

import pytest

from benchmarks.claims.claim import Results
from benchmarks.claims.recap import _blocks_ahead
from benchmarks.claims.skim_measures import block_sizes, loss_gains, lost_of_all, saved, stages
from tests.unit.benchmarks.comparisons import difference

SKIM = {"name": "block_skim", "args": {"target": 0.5}}
IN_STAGES = {"name": "block_skim", "args": {"target": 0.5, "training": "two_stage"}}
OTHERWISE = {"name": "block_skim", "args": {"target": 0.5, "training": "two_stage", "block": 16}}
NOTHING_SKIPPED = {"name": "block_skim", "args": {"threshold": 0.0}}


def _row(name, differences, **arms):
    return {
        "kind": "compare",
        "command": f"fewer compare --recipe recipes/{name}-compare.yaml",
        "data": {"source": "data/squad/dev.json", "hash": "same"},
        "train": {"hash": "same"},
        "settings": {"arms": {"dense": {"name": "dense"}, **arms}, "seeds": [1, 2]},
        "differences": differences,
    }


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "compare.jsonl").write_text(lines)
        return Results(tmp_path)

    return write


def test_comparisons_of_the_same_texts_are_kept_apart_by_their_recipe(write):
    first, second, again = (_row(name, []) for name in ("one", "other", "one"))
    again["differences"] = [difference("dense", "start", 0.02)]
    rows = write(first, second, again).rows("compare")
    assert [len(row["differences"]) for row in rows] == [1, 0]


def test_the_second_loss_is_judged_where_nothing_is_skipped(write):
    differences = [
        difference("plain_loss", "dense", 0.02),
        difference("skim", "dense", -0.5, 0.5),
        difference("skim", "dense", -0.4),
        difference("plain_loss", "start", 0.3),
    ]
    row = _row("some-questions", differences, plain_loss=NOTHING_SKIPPED, skim=SKIM)
    (case,) = loss_gains(write(row))
    assert case.name == "some_questions, plain_loss, seeds [1, 2]"
    assert case.interval == pytest.approx((2.0, 1.0, 3.0))


@pytest.mark.parametrize("turned", [False, True])
def test_joint_training_is_compared_with_stages_at_equal_flops(write, turned):
    pair, mean = (("stages", "joint"), -0.03) if turned else (("joint", "stages"), 0.03)
    differences = [
        difference(*pair, mean, 0.5, 0.5),
        difference("joint", "again", 0.5, 0.5, 0.5),
        difference("joint", "otherwise", 0.5, 0.5, 0.5),
        difference(*pair, 0.4),
        difference("joint", "dense", 0.4, 0.5),
    ]
    arms = {"joint": SKIM, "again": SKIM, "stages": IN_STAGES, "otherwise": OTHERWISE}
    row = _row("some", differences, **arms)
    (case,) = stages(write(row))
    assert case.name == "some, 50% of the FLOPs"
    assert case.interval == pytest.approx((3.0, 2.0, 4.0))


@pytest.mark.parametrize("turned", [False, True])
def test_blocks_of_32_are_compared_with_other_sizes_at_equal_flops(write, turned):
    pair, mean = (("large", "skim"), -0.03) if turned else (("skim", "large"), 0.03)
    large, larger = (
        {"name": "block_skim", "args": {**SKIM["args"], "block": size}} for size in (64, 128)
    )
    differences = [
        difference(*pair, mean, 0.5, 0.5),
        difference("large", "stages", 0.4, 0.5, 0.5),
        difference("large", "larger", 0.4, 0.5, 0.5),
    ]
    arms = {"skim": SKIM, "large": large, "larger": larger, "stages": IN_STAGES}
    (case,) = block_sizes(write(_row("some", differences, **arms)))
    assert case.name == "not 64, some, 50% of the FLOPs"
    assert case.interval == pytest.approx((3.0, 2.0, 4.0))


def test_blocks_are_compared_with_tokens_at_one_target(write):
    differences = [
        difference("ltp", "skim", 0.01, 0.7, 0.7),
        difference("ltp", "skim", 0.5, 0.7, 0.5),
    ]
    row = _row("some", differences, skim=SKIM, ltp={"name": "ltp", "args": {}})
    (case,) = _blocks_ahead(write(row))
    assert case.name == "some, skim, 70% of the FLOPs"
    assert case.interval == pytest.approx((-1.0, -2.0, 0.0))


@pytest.mark.parametrize(
    ("dense", "speed", "lost"), [(0.75, 2.0, [0.5]), (0.69, 2.5, [-0.5]), (0.76, 1.0, [])]
)
def test_the_better_of_two_dense_models_counts(write, dense, speed, lost):
    scores = {("start", None): 0.7, ("dense", None): dense}
    scores |= {("skim", 0.5): 0.745, ("skim", 0.4): 0.705}
    row = _row("some", [], skim=SKIM)
    row["cells"] = [
        {"arm": arm, "target": target, "metrics": {"f1": f1}, "flops_share": target or 1.0}
        for (arm, target), f1 in scores.items()
    ]
    row["differences"] = [
        difference("skim", reference, scores["skim", target] - scores[reference, None], target)
        for target in (0.5, 0.4)
        for reference in ("start", "dense")
    ]
    results = write(row)
    assert [case.interval.value for case in saved(results)] == pytest.approx([speed])
    assert [case.interval.value for case in lost_of_all(results)] == pytest.approx(lost)
