"""A whole comparison of a tiny model: alike for all, resumable, told in one row."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import fewer
from fewer._files.disk import read_json
from fewer.compare import run as module
from fewer.compare import training
from fewer.compare.cells import Cells, Key
from fewer.compare.figure import draw_flops, draw_times, pareto_front
from fewer.compare.run import list_cells, read_all, run
from fewer.compare.settings import Comparison
from fewer.compare.summary import summarize
from fewer.compare.table import entries, markdown, table
from fewer.compare.training import folder_of
from fewer.core.cost import Task
from tests.tiny import tiny

ARMS = {
    "half": {"name": "dense", "layers": 1},
    "ltp": "ltp",
    "exits": "fastbert",
    "free": {"name": "training_free", "args": {"search": False}},
}


def comparison_of(model_folder, reviews, **changes):
    values = {
        "model": str(model_folder),
        "train": str(reviews),
        "test": str(reviews),
        "arms": ARMS,
        "columns": {"text": "review", "label": "stars"},
        "dev_rows": 12,
        "rows": 16,
        "test_rows": 24,
        "targets": (0.8,),
        "seeds": (1, 2),
        "dense_epochs": 1.0,
        "epochs": 1.0,
        "batch_sizes": (1,),
        "runs": 1,
        "schedule": {"batch_size": 8, "precision": "fp32"},
    }
    return Comparison(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(model_folder, reviews, tmp_path_factory):
    output = tmp_path_factory.mktemp("compare") / "run"
    comparison = comparison_of(model_folder, reviews)
    with pytest.warns(UserWarning, match="FLOPs"):
        measured = run(comparison, output)
    return measured, output


def test_all_arms_are_measured_for_every_seed(finished):
    measured, _ = finished
    cells = [(key.arm, key.target, key.seed) for key in measured.keys]
    of_seed = [
        ("start", None),
        ("dense", None),
        ("half", None),
        ("ltp", 0.8),
        ("exits", 0.8),
        ("free", 0.8),
    ]
    assert cells == [(*cell, seed) for seed in (1, 2) for cell in of_seed]
    assert all(key in measured.cells for key in measured.keys)


def test_no_row_is_in_two_parts(model_folder, reviews):
    rows = read_all(comparison_of(model_folder, reviews))
    train, dev = (
        {(row["review"], row["stars"]) for row in part} for part in (rows.train, rows.dev)
    )
    assert (len(rows.train), len(rows.dev), len(rows.test)) == (16, 12, 24)
    assert not train & dev


@pytest.mark.parametrize("held_out", [True, False])
def test_arms_may_train_on_rows_that_the_first_model_has_not_seen(model_folder, reviews, held_out):
    dev = {} if held_out else {"dev": str(reviews)}
    comparison = comparison_of(model_folder, reviews, arms={"ltp": "ltp"}, **dev)
    shared = read_all(comparison)
    assert shared.arms["review"] == shared.train["review"]
    apart = read_all(replace(comparison, arm_rows=10))
    assert apart.train["review"] == shared.train["review"]
    assert len(apart.arms) == 10
    seen = set(apart.train["review"]) | (set(apart.dev["review"]) if held_out else set())
    assert not seen & set(apart.arms["review"])
    with pytest.raises(ValueError, match="train must have 1016 rows for rows and arm_rows"):
        read_all(replace(comparison, arm_rows=1000))


def test_documents_of_a_query_are_not_parted(model_folder, reviews, tmp_path):
    path = tmp_path / "ranking.jsonl"
    rows = [{"query": "a", "document": f"d{n}", "label": n % 2} for n in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"train must have one text per row; got .*ranking"):
        read_all(comparison_of(model_folder, reviews, train=str(path), columns={}))


def test_every_arm_trains_for_the_same_number_of_epochs(finished):
    """Phases share them; a cut model also gets those of the first model, which it lacks."""
    _, output = finished
    epochs = {}
    for arm, target in (("dense", None), ("ltp", 0.8), ("exits", None), ("half", None)):
        phases = read_json(folder_of(output, arm, target, 1) / "fit.json")["phases"]
        epochs[arm] = sum(phase["epochs"] for phase in phases)
    assert epochs == pytest.approx({"dense": 1.0, "ltp": 1.0, "exits": 1.0, "half": 2.0})


def test_heads_alone_are_trained_on_the_model_of_the_dense_arm(finished):
    """Its weights are those that trained as long as all others'."""
    _, output = finished
    folders = [folder_of(output, arm, None, 1) / "model" for arm in ("exits", "dense", "start")]
    exits, dense, start = (fewer.load(folder, precision=None).state_dict() for folder in folders)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(exits[name], dense[name])
    assert not torch.equal(dense[name], start[name])


def test_a_model_that_begins_anew_may_learn_at_its_own_rate(model_folder, reviews, monkeypatch):
    recipes = []
    monkeypatch.setattr(training, "train_rows", lambda recipe, *_, **__: recipes.append(recipe))
    monkeypatch.setattr(training, "write_json", lambda *_: None)
    rates = {"learning_rate": 2e-5, "dense_learning_rate": 5e-5}
    comparison = comparison_of(model_folder, reviews, **rates)
    folder = model_folder.parent / "nowhere"
    training.train_start(comparison, None, 1, folder)
    for arm in comparison.list_arms()[:2]:  # "dense", then "half", which has fewer layers
        training.train_arm(comparison, arm, None, None, 1, folder)
    assert [recipe.learning_rate for recipe in recipes] == [2e-5] * 3
    assert [recipe.dense.get("learning_rate") for recipe in recipes] == [5e-5, None, 5e-5]


def test_one_training_serves_all_targets_where_points_are_turned_afterwards(finished):
    _, output = finished
    assert folder_of(output, "exits", None, 1).exists()
    assert not folder_of(output, "exits", 0.8, 1).exists()
    assert folder_of(output, "ltp", 0.8, 1).exists()


def test_the_last_model_stays_open_with_its_shares(finished, monkeypatch):
    measured, output = finished
    benches = module._Benches(measured.rows, measured.comparison)
    folder = folder_of(output, "exits", None, 1)
    bench = benches.open(folder)
    assert benches.open(folder) is bench
    assert benches.open(folder_of(output, "dense", None, 1)) is not bench
    points = fewer.attachment(bench.model).policy.operating_points()
    points.turn_to(points.never)
    share = bench.measure_share(points)
    monkeypatch.setattr(bench, "dev_runs", None)  # no second run
    assert bench.measure_share(points) == share


def test_an_arm_may_be_trained_once_though_its_method_has_a_target():
    skim = {"name": "block_skim", "args": {"target": 0.6, "skimming_epochs": 0.5}}
    arms = {"each": skim, "once": {**skim, "trains_once": True}, "ltp": "ltp"}
    comparison = Comparison(model="m", train="a", test="b", arms=arms, targets=(0.5, 0.4))
    spec = replace(fewer.attachment(fewer.attach(tiny())).spec, task=Task.SPAN)
    trained = [
        (cell.arm.name, cell.target, cell.trained_target) for cell in list_cells(comparison, spec)
    ]
    assert trained[1:] == [
        *(("each", 0.5, 0.5), ("each", 0.4, 0.4)),
        *(("once", 0.5, None), ("once", 0.4, None)),
        *(("ltp", 0.5, 0.5), ("ltp", 0.4, 0.4)),
    ]
    arms["ltp"] = {"name": "ltp", "trains_once": True}
    comparison = Comparison(model="m", train="a", test="b", arms=arms)
    with pytest.raises(ValueError, match="arm 'ltp' must have a threshold to turn"):
        list(list_cells(comparison, spec))


def test_cells_hold_cost_score_and_origin(finished):
    measured, _ = finished
    cell = measured.cells.read(Key("exits", 0.8, 1))
    assert cell["flops_share"] > 0
    assert cell["dev_flops_share"] is not None
    assert cell["point"] is not None
    assert {"accuracy", "f1"} <= set(cell["metrics"])
    assert cell["latency_ms"]["1"]["speedup"] > 0
    assert "latency_ms" not in measured.cells.read(Key("exits", 0.8, 2))
    assert measured.cells.read(Key("half", None, 1))["flops_share"] == pytest.approx(1 / 3)
    assert measured.cells.read(Key("dense", None, 1))["flops_share"] == pytest.approx(1.0)


def test_quartiles_of_length_hold_all_texts(finished):
    measured, _ = finished
    key = Key("half", None, 1)
    quartiles, results = measured.cells.read(key)["quartiles"], measured.cells.results(key)
    assert sum(part["texts"] for part in quartiles) == 24
    assert all(a["longest"] < b["shortest"] for a, b in pairwise(quartiles))
    assert [part["flops_share"] for part in quartiles] == pytest.approx([1 / 3] * len(quartiles))
    assert results.tokens.min() == quartiles[0]["shortest"]


def test_a_finished_comparison_is_not_measured_again(finished, monkeypatch):
    measured, output = finished

    def refuse(*_, **__):
        pytest.fail("measured again")

    monkeypatch.setattr(module, "_measure_cell", refuse)
    again = run(measured.comparison, output, resume=True)
    assert again.keys == measured.keys


def test_batches_may_be_timed_later(finished, monkeypatch):
    measured, output = finished
    key, timed = Key("exits", 0.8, 1), []
    before = measured.cells.read(key)

    def record(systems, *_, batch_sizes, **__):
        timed.append(fewer.attachment(systems["method"]).policy.operating_points().present)
        return {"method": {"latency_ms": {str(size): {"speedup": 2.0} for size in batch_sizes}}}

    monkeypatch.setattr(module, "time_systems", record)
    arms = {"exits": ARMS["exits"]}
    comparison = replace(measured.comparison, arms=arms, batch_sizes=(1, 3), runs=2)
    again = run(comparison, output, resume=True)
    cells = [again.cells.read(Key("exits", target, 1)) for target in comparison.targets]
    assert timed == pytest.approx([cell["point"] for cell in cells])
    assert set(again.cells.read(key)["latency_ms"]) == {"1", "3"}
    for each, target in zip(cells, comparison.targets, strict=True):
        again.cells.replace(Key("exits", target, 1), each | {"latency_ms": before["latency_ms"]})


def test_an_interrupted_comparison_goes_on_to_the_same_answers(finished, tmp_path, monkeypatch):
    """It is killed while the second cell is stored, after its training."""
    measured, _ = finished
    comparison = replace(measured.comparison, arms={"half": ARMS["half"]}, seeds=(1,))
    store, keys = Cells.store, []

    class Killed(Exception):
        pass

    def kill_at_second(self, key, cell, results):
        keys.append(key)
        if len(keys) == 2:
            raise Killed
        store(self, key, cell, results)

    monkeypatch.setattr(Cells, "store", kill_at_second)
    with pytest.raises(Killed):
        run(comparison, tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="resume"):
        run(comparison, tmp_path)
    resumed = run(comparison, tmp_path, resume=True)
    for key in resumed.keys:
        assert torch.allclose(
            resumed.cells.results(key).answers, measured.cells.results(key).answers
        )


def test_another_comparison_in_the_same_folder_is_refused(finished, model_folder, reviews):
    _, output = finished
    other = comparison_of(model_folder, reviews, epochs=2.0)
    with pytest.raises(ValueError, match="epochs"):
        run(other, output, resume=True)


def test_an_arm_of_the_same_name_must_be_the_same_method(finished):
    measured, output = finished
    other = replace(measured.comparison, arms={"half": {"name": "dense", "layers": 2}})
    with pytest.raises(ValueError, match="arm 'half'"):
        run(other, output, resume=True)


def test_arms_and_seeds_may_be_left_out_or_added_later(finished):
    measured, output = finished
    fewer_cells = replace(measured.comparison, arms={"half": ARMS["half"]}, seeds=(2,))
    keys = run(fewer_cells, output, resume=True).keys
    assert [(key.arm, key.seed) for key in keys] == [("start", 2), ("dense", 2), ("half", 2)]


def test_the_row_has_an_interval_for_every_difference(finished):
    row = summarize(finished[0])
    pairs = {(entry["reference"], entry["arm"]) for entry in row["differences"]}
    assert ("dense", "ltp") in pairs
    assert ("half", "exits") in pairs
    assert ("start", "dense") in pairs
    assert ("start", "ltp") in pairs
    assert all(entry["low"] <= entry["mean"] <= entry["high"] for entry in row["differences"])
    quartiles = row["cells"][0]["quartiles"]
    assert all(len(entry["quartiles"]) == len(quartiles) for entry in row["differences"])
    assert row["data"]["rows"] == 24
    assert row["settings"]["seeds"] == (1, 2)


def test_tables_and_figures_name_every_arm(finished):
    row = summarize(finished[0])
    names = [entry.arm for entry in entries(row)]
    assert names == ["start", "dense", *ARMS]
    start, dense, _, ltp, *_ = entries(row)
    assert dense.difference is None
    assert dense.before == tuple(-value for value in (start.difference[i] for i in (0, 2, 1)))
    assert ltp.before is not None
    assert "from before" in markdown(row)
    older = [entry for entry in row["differences"] if entry["reference"] != "start"]
    assert "from before" not in markdown({**row, "differences": older})
    assert entries(row)[3].spread is not None
    text = markdown(row)
    assert all(name in text for name in ARMS)
    assert "2 seeds" in text
    assert len(table(row).rows) == len(names)
    for figure in (draw_flops(row), draw_times(row)):
        assert figure is not None
        assert all(name in figure.svg for name in ARMS)


def test_the_front_holds_what_no_other_beats():
    points = [(0.5, 0.8), (0.4, 0.7), (0.6, 0.75), (0.5, 0.6), (1.0, 0.9)]
    assert pareto_front(points) == [(0.4, 0.7), (0.5, 0.8), (1.0, 0.9)]
