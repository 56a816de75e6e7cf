"""Operating points and tables of sweeps, with numbers computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fewer.report.operating_points import (
    buckets_table,
    curve_table,
    data_set,
    dense_score,
    exits_table,
    longer_score,
    operating_point,
    points,
    pruning_only,
    reference_score,
    score_name,
    tagging_table,
)
from fewer.report.settings import first_metric
from tests.unit.measure.results import result
from tests.unit.measure.swept import CURVE, DENSE_HALF, swept, tagged


def lines(table: str) -> list[list[str]]:
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [cells[0], *cells[2:]]


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["accuracy", "f1", "matthews"], "accuracy"),
        (["f1", "precision", "recall", "accuracy"], "f1"),
        (["f1", "accuracy"], "accuracy"),  # tags that are no entities
        (["pearson", "spearman"], "pearson"),
        ([], None),
    ],
)
def test_the_first_metric_is_that_of_the_task(names: list[str], first: str | None) -> None:
    assert first_metric(names) == first


def test_the_threshold_is_selected_on_one_half_and_scored_on_the_second() -> None:
    point = operating_point(swept())
    assert point is not None
    # even half: 0.5 has 0.89, just one point below 0.9; 0.9 has 0.7
    assert point["threshold"] == 0.5
    assert point["metrics"]["accuracy"] == 0.86
    assert (point["flops_per_text"], point["texts"]) == (510.0, 4)


@pytest.mark.parametrize(
    ("most_lost", "threshold"), [(0.0, 0.1), (0.9, 0.1), (1.0, 0.5), (20, 0.9)]
)
def test_a_larger_loss_selects_a_larger_threshold(most_lost: float, threshold: float) -> None:
    point = operating_point(swept(), most_lost)
    assert point is not None
    assert point["threshold"] == threshold


def test_the_point_without_exits_may_be_the_only_one_or_none_may_qualify() -> None:
    lossy = {**CURVE, 0.1: (0.8, 0.9, 800.0, [0, 2, 2, 4]), 0.5: (0.8, 0.9, 500.0, [2, 2, 2, 2])}
    point = operating_point(swept(curve=lossy))
    assert point is not None
    assert point["threshold"] is None
    lossy[None] = (0.88, 0.95, 1040.0, [0, 0, 0, 8])
    assert operating_point(swept(curve=lossy)) is None
    assert lines(exits_table([swept(curve=lossy)]))[2][4:] == [
        *("none", "-", "-", "-", "-", "never: 0.9150 of 0.9150, 1.04x more")
    ]


def test_the_fewest_flops_are_selected_instead_of_the_largest_threshold() -> None:
    upside_down = {0.1: CURVE[0.5], 0.5: CURVE[0.1]}
    point = operating_point(swept(curve=upside_down))
    assert point is not None
    assert point["threshold"] == 0.1


def test_entities_are_selected_by_f1() -> None:
    row = tagged()
    assert score_name(row) == "f1"
    for half in row["sweep"][2]["halves"]:
        half["metrics"]["f1"] -= 0.05  # accuracy is as near as before
    point = operating_point(row)
    assert point is not None
    assert point["threshold"] == 0.1


def test_pruning_only_subtracts_the_heads_everywhere() -> None:
    row = swept()
    point = pruning_only(row)
    assert (point["flops_per_text"], point["heads_flops_per_text"]) == (1000.0, 0.0)
    assert [half["flops_per_text"] for half in point["halves"]] == [990.0, 1010.0]
    assert point["buckets"]["1-35"]["flops_per_text"] == 480.0
    assert point["metrics"] == row["sweep"][0]["metrics"]
    assert row["sweep"][0]["flops_per_text"] == 1040.0  # the row is as it was
    with pytest.raises(ValueError, match="point without exits"):
        pruning_only(swept(curve={0.1: CURVE[0.1]}))


def test_rows_without_a_sweep_or_a_score_are_refused() -> None:
    with pytest.raises(ValueError, match="sweep"):
        points(result())
    row = swept()
    row["systems"]["packed"]["metrics"] = {}
    with pytest.raises(ValueError, match="metrics of its dense model"):
        exits_table([row])


def test_the_table_of_exits_has_a_line_per_row() -> None:
    head, *body = lines(exits_table([swept(), swept("fastbert", "data/glue/sst2/dev.jsonl")]))
    assert head == [
        *("data", "method", "dense", "nobody leaves", "threshold", "with exits", "FLOPs"),
        *("layers read", "length and layers", "chosen on all texts shown"),
    ]
    # the odd half, chosen on the even one: (1 + 2 + 3 + 4) * 2 / 8 = 2.5 layers, 1000 / 510 = 1.96;
    # of all texts: 0.89 of never leaving is the better dense model, and 0.885 is near enough
    cells = ["0.5", "0.8600", "2.0x fewer", "2.50", "+0.25"]
    cells.append("0.1: 0.8850 of 0.8900, 1.2x fewer")
    # without heads: 1000 / (1040 + 10 - 40)
    pruned = ["imdb", "its pruning only", "0.9000", "-"]
    pruned += ["never", "0.8800", "1.01x more", "4.00", "-", "-"]
    pyramid = ["imdb", "magic_pyramid", "0.9000", "0.8800 (+1.5 epochs)", *cells]  # those of LTP
    assert body == [pruned, pyramid, ["glue/sst2", "fastbert", "0.9000", "0.8800", *cells]]


def test_the_reference_is_the_better_of_two_dense_models() -> None:
    """The method's model is better on the even half, the baseline on the odd half."""
    row = swept(curve={**CURVE, None: (0.95, 0.88, 1040.0, [0, 0, 0, 8])})
    assert [reference_score(row, half) for half in (0, 1)] == [0.95, 0.9]
    assert reference_score(row) == pytest.approx(0.915)
    point = operating_point(row)  # 0.9 and 0.89 lose more than a point of 0.95
    assert point is not None
    assert point["threshold"] is None
    row["systems"]["packed"]["metrics"]["accuracy"] = 0.93
    assert reference_score(row) == 0.93


def test_a_model_that_prunes_is_not_a_dense_model() -> None:
    row = swept(curve={**CURVE, None: (0.95, 0.95, 700.0, [0, 0, 0, 8])})
    assert longer_score(row) is None
    assert [reference_score(row, half) for half in (0, 1)] == [DENSE_HALF, DENSE_HALF]
    assert longer_score(swept(curve={0.1: CURVE[0.1]})) is None


def test_rows_with_dense_halves_are_compared_per_half() -> None:
    row = swept()
    row["systems"]["packed"]["halves"] = [
        {"metrics": {"accuracy": 0.96}},
        {"metrics": {"accuracy": 0.84}},
    ]
    assert operating_point(row) is None
    assert (dense_score(row, 0), dense_score(row, 1)) == (0.96, 0.84)
    row["systems"]["packed"]["halves"][0]["metrics"]["accuracy"] = 0.91
    point = operating_point(row)
    assert point is not None
    assert point["threshold"] == 0.1
    assert lines(exits_table([row]))[2][2:7] == [
        *("0.8400", "0.8800 (+1.5 epochs)", "0.1", "0.8700", "1.2x fewer")
    ]


def test_constant_layers_have_no_correlation() -> None:
    row = swept(curve={None: CURVE[None]})
    assert lines(exits_table([row]))[2][4:-1] == ["never", "0.8800", "1.05x more", "4.00", "-"]


def test_the_table_of_tags_names_the_score_and_counts_tokens() -> None:
    pos = swept("sentee", "../shared/data/ud_ewt_pos/test.jsonl.gz")
    head, entities, tags = lines(tagging_table([tagged(), pos]))
    assert head[2:] == [
        *("score", "dense", "nobody leaves", "threshold", "with exits", "FLOPs"),
        *("layers, a sentence", "layers, a token", "length and layers"),
        "chosen on all texts shown",
    ]
    cells = ["2.0x fewer", "2.50", "2.00", "+0.25"]
    longer = "0.6800 (+7 epochs)"  # TOKEE's 5 and 2
    assert entities[:-1] == ["conll2003", "tokee", "f1", "0.7000", longer, "0.5", "0.6600", *cells]
    assert entities[-1] == "0.1: 0.6850 of 0.6900, 1.2x fewer"
    longer = "0.8800 (+5 epochs)"
    assert tags[2:8] == ["accuracy", "0.9000", longer, "0.5", "0.8600", "2.0x fewer"]


def test_sentee_counts_the_epochs_of_the_phase_of_tokee_that_it_starts_from() -> None:
    tokee = tagged()
    tokee["method"]["args"] = {"epochs": [3, 2]}
    sentee = tagged("sentee", baseline=tokee["baseline"])
    scores = [line[4] for line in lines(tagging_table([tokee, sentee]))[1:]]
    assert scores == ["0.6800 (+5 epochs)", "0.6800 (+3 epochs)"]
    equal = [tagged(name, baseline="runs/longer-42/model") for name in ("tokee", "sentee")]
    assert [line[4] for line in lines(tagging_table(equal))[1:]] == ["0.6800", "0.6800"]


def test_the_table_of_lengths_compares_pruning_exits_and_both() -> None:
    cheap = {None: CURVE[None], 0.2: (0.9, 0.88, 400.0, [4, 2, 2, 0])}
    head, short, long = lines(buckets_table([swept(), tagged(), swept("fastbert", curve=cheap)]))
    assert head == ["data", "tokens", "texts", "pruning only", "exits only", "both"]
    # 1000 / (1040 / 2 - 40), 1000 / (400 / 2), 1000 / (500 / 2); over 70 without the halves
    assert short == [
        *("imdb", "1-35", "5"),
        *("0.8800, 2.1x fewer", "0.8800, 5.0x fewer", "0.8600, 4.0x fewer"),
    ]
    assert long == [
        *("imdb", "over 70", "3"),
        *("0.9000, as many", "0.9000, 2.5x fewer", "0.8900, 2.0x fewer"),
    ]


def test_pairs_share_the_texts_and_the_seed() -> None:
    exits = [
        swept("fastbert", training_seed=43, model="runs/fastbert-43/model"),
        swept("fastbert", "../shared/data/ag_news/test.jsonl.gz"),
    ]
    body = lines(buckets_table([swept(), *exits]))[1:]
    assert [line[0] for line in body[::2]] == [
        *("imdb, magic_pyramid-42", "imdb, fastbert-43", "ag_news")
    ]
    assert [[cell == "-" for cell in line[3:]] for line in body[::2]] == [
        *([False, True, False], [True, False, True], [True, False, True])
    ]


def test_a_length_without_texts_has_a_dash() -> None:
    row = swept("fastbert")
    for point in row["sweep"]:
        del point["buckets"]["1-35"]
    by_length = {line[1]: line for line in lines(buckets_table([swept(), row]))[1:]}
    assert by_length["1-35"][4] == "-"
    assert by_length["over 70"][4] != "-"
    assert len(by_length) == 2


def test_a_sweep_without_a_qualified_threshold_has_dashes() -> None:
    lossy: dict[Any, Any] = {None: (0.5, 0.5, 1040.0, [0, 0, 0, 8])}
    body = lines(buckets_table([swept(curve=lossy)]))[1:]
    assert body[0][3:] == ["0.5000, 2.1x fewer", "-", "-"]


def test_equal_labels_are_made_distinct() -> None:
    second_seed = swept(training_seed=43, model="runs/magic_pyramid-43/model")
    dev = swept("fastbert", "../shared/data/imdb/dev.jsonl.gz")
    names = [line[0] for line in lines(exits_table([swept(), second_seed, dev]))[1:]]
    pyramids = ["imdb test, magic_pyramid-42"] * 2 + ["imdb test, magic_pyramid-43"] * 2
    assert names == [*pyramids, "imdb dev"]


def test_the_curve_has_a_line_per_threshold() -> None:
    head, never, strict, *_ = lines(curve_table(swept()))
    assert head == [
        *("threshold", "accuracy", "FLOPs, dense = 1", "FLOPs", "layers read"),
        *("layers, a token", "FLOPs of heads"),
    ]
    assert never == ["never", "0.8900", "1.040", "1.04x more", "4.00", "3.50", "4.0%"]
    # (2 * 2 + 2 * 3 + 4 * 4) / 8 = 3.25
    assert strict == ["0.1", "0.8850", "0.800", "1.2x fewer", "3.25", "2.75", "4.0%"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/somewhere/data/ag_news/test.jsonl.gz", "ag_news"),
        ("runs/squad/dev.jsonl", "squad"),
        ("data/mine.csv", "mine.csv"),
        ("ag_news", "ag_news"),
    ],
)
def test_data_is_named_by_its_folder(source: str, name: str) -> None:
    assert data_set({"data": {"source": source}}) == name
