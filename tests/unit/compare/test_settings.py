import pytest

from fewer.compare.settings import Comparison, read_comparison
from fewer.methods.exits import FastBERT
from fewer.methods.pruning import LTP, TrainingFree

NEEDED = {"model": "m", "train": "a.csv", "test": "b.csv"}


def test_arms_are_methods_by_name_or_with_settings_and_layers():
    comparison = Comparison(
        **NEEDED,
        arms={
            "ltp": "ltp",
            "exits": {"name": "fastbert", "args": {"epochs": 1.0}},
            "half": {"name": "dense", "layers": 3},
        },
    )
    dense, ltp, exits, half = comparison.list_arms()
    assert (dense.name, ltp.method, exits.method.epochs) == ("dense", LTP(), 1.0)
    assert isinstance(exits.method, FastBERT)
    assert (half.method, half.layers) == (dense.method, 3)


def test_arms_that_leave_the_model_as_it_is_are_told_apart():
    arms = {"free": "training_free", "ltp": "ltp", "exits": "fastbert"}
    dense, free, ltp, exits = Comparison(**NEEDED, arms=arms).list_arms()
    assert [arm.trains_model for arm in (dense, free, ltp, exits)] == [True, False, True, False]
    assert [arm.has_epochs for arm in (free, ltp, exits)] == [False, True, True]
    assert isinstance(free.method, TrainingFree)


def test_a_target_becomes_a_setting_of_the_method():
    arm = Comparison(**NEEDED, arms={"ltp": "ltp"}).list_arms()[1]
    assert arm.description(0.5)["args"]["target"] == 0.5
    assert arm.description()["args"]["target"] is None


def test_an_arm_may_have_targets_of_its_own():
    arms = {"all": "ltp", "own": {"name": "ltp", "targets": [0.4]}, "none": {"name": "ltp"}}
    arms["none"]["targets"] = []
    _, *listed = Comparison(**NEEDED, arms=arms).list_arms()
    assert [arm.targets for arm in listed] == [None, (0.4,), ()]


def test_an_arm_may_train_once_for_all_targets():
    arms = {"each": "block_skim", "once": {"name": "block_skim", "trains_once": True}}
    _, *listed = Comparison(**NEEDED, arms=arms).list_arms()
    assert [arm.trains_once for arm in listed] == [False, True]


def test_rows_of_the_arms_go_with_rows_of_the_first_model_and_whole_models():
    arms = {"half": {"name": "dense", "layers": 3}}
    with pytest.raises(ValueError, match=r"layers must be absent.*got layers=3 of 'half'"):
        Comparison(**NEEDED, arms=arms, rows=8, arm_rows=8)
    with pytest.raises(ValueError, match="rows must be given with arm_rows"):
        Comparison(**NEEDED, arms={"ltp": "ltp"}, arm_rows=8)


@pytest.mark.parametrize("name", ["dense", "start", "a/b", ""])
def test_names_that_are_taken_or_no_file_names_are_refused(name):
    with pytest.raises(ValueError, match="name of an arm"):
        Comparison(**NEEDED, arms={name: "ltp"})


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("lpt", "ltp"),
        ({"name": "ltp", "layers": 0}, "layers"),
        ({"name": "ltp", "targets": [2.0]}, "targets"),
        ({"name": "ltp", "trains_once": 1}, "trains_once"),
        ({"name": "ltp", "args": {"target": 2}}, "target"),
    ],
)
def test_wrong_arms_are_told_by_their_name(arm, told):
    with pytest.raises(ValueError, match=rf"(?s)arm 'first'.*{told}"):
        Comparison(**NEEDED, arms={"first": arm})


def test_no_arm_is_refused():
    with pytest.raises(ValueError, match="arms"):
        Comparison(**NEEDED, arms={})


def test_options_take_precedence_over_the_file(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text(
        "model: m\ntrain: a.csv\ntest: b.csv\narms: {ltp: ltp}\ntargets: [0.5]\n"
        "schedule: {batch_size: 8, warmup: 0.1}\n"
    )
    comparison = read_comparison(
        path, {"targets": (0.7,), "schedule": {"batch_size": 4}, "epochs": None, "seeds": ()}
    )
    assert comparison.targets == (0.7,)
    assert comparison.schedule == {"batch_size": 4, "warmup": 0.1}
    assert comparison.seeds == (42,)


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "compare.yaml"
    path.write_text("- ltp\n")
    with pytest.raises(ValueError, match=r"compare\.yaml"):
        read_comparison(path, {})


def test_unknown_keys_are_told(tmp_path):
    with pytest.raises((ValueError, TypeError), match="epoch"):
        read_comparison(None, {**NEEDED, "arms": {"ltp": "ltp"}, "epoch": 3})
