import json
from dataclasses import dataclass, fields

import pytest

import fewer
from fewer import LTP, METHODS, Dense, EarlyExit
from fewer.hf.side_file import (
    SCHEMA,
    SIDE_FILE,
    Settings,
    method_from,
    method_to,
    read_settings,
    write_settings,
)
from fewer.methods.attention import Longformer
from fewer.methods.combined import MagicPyramid, Stack
from fewer.methods.exits import PABEE, TOKEE
from tests.tiny import tiny

EXAMPLES = [
    Dense(),
    LTP(),
    LTP(target=0.5, strength=2.0, epochs=(0.5, 3), learning_rates=(1e-5, 1e-3, 1e-6)),
    LTP(soft_rule="output", reference_length=128, final_threshold=0.02, temperature=2e-3),
    Stack((LTP(target=0.4), EarlyExit(layers=(2, 4), criterion="patience", threshold=2))),
    MagicPyramid(pruning=LTP(target=0.3), exits=PABEE(target=0.5), joint_epochs=3),
    TOKEE(window=7, layers=(3,), epochs=(1, 0)),
]


@pytest.mark.parametrize("method", EXAMPLES)
def test_a_method_survives_json(method):
    assert method_from(json.loads(json.dumps(method_to(method)))) == method


def test_every_method_of_the_table_survives_json_with_its_defaults():
    for name, kind in METHODS.items():
        if kind is Stack:  # has no default
            continue
        assert method_from(name) == kind()
        assert method_to(kind())["name"] == name
        assert set(method_to(kind())["args"]) == {field.name for field in fields(kind)}


def test_a_name_alone_and_an_empty_description_mean_the_defaults():
    assert method_from("ltp") == method_from({"name": "ltp"}) == LTP()
    assert method_from({"name": "ltp", "args": {}}) == LTP()


def test_lists_of_a_file_become_tuples():
    method = method_from({"name": "ltp", "args": {"epochs": [1, 2]}})
    assert method.epochs == (1, 2)
    assert hash(method) == hash(LTP(epochs=(1, 2)))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("LPT", r"method must be one of berxit, big_bird.* 'LPT' \(did you mean 'ltp'\?\)"),
        ("lpt", r"did you mean 'ltp'\?"),
        ({"name": "ltp", "args": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"name": "dense", "args": {"x": 1}}, "method 'dense': setting .*'x'"),
        ({"name": "ltp", "target": 0.5}, "method must be a name or"),
        ({}, "name or .* got {}"),
        (None, "name or .* got None"),
        ({"name": "ltp", "args": None}, "args of method .* got None"),
        (
            {"name": "ltp", "args": {"temperature": "1e-3"}},
            r"method 'ltp': temperature .*'1e-3'",
        ),
        (
            {"name": "longformer", "args": {"attention_window": 8.0}},
            r"'longformer': attention_window .*8\.0",
        ),
        ({"name": "stack"}, "method 'stack': methods must be given"),
        ({"name": "ltp", "args": {"target": 1.5}}, r"target .*1\.5"),
    ],
)
def test_a_bad_description_is_refused_with_the_constraint(description, message):
    with pytest.raises(ValueError, match=message):
        method_from(description)


def test_a_method_outside_the_table_cannot_be_described():
    @dataclass(frozen=True)
    class Mine(Dense):
        pass

    with pytest.raises(
        ValueError, match=r"method must be one of berxit, big_bird, block_skim.*got a Mine"
    ):
        method_to(Mine())


@pytest.mark.parametrize("method", EXAMPLES)
def test_settings_make_the_round_trip_through_a_folder(method, tmp_path):
    settings = Settings(method, "reference", (101, 102))
    write_settings(settings, tmp_path)
    assert read_settings(tmp_path) == settings


def test_the_side_file_records_the_version(tmp_path):
    write_settings(Settings(LTP()), tmp_path)
    content = json.loads((tmp_path / SIDE_FILE).read_text())
    assert content["schema"] == SCHEMA == 1
    assert content["version"] == fewer.__version__
    assert list(content) == ["schema", "version", "method", "kernel", "protect"]


def test_a_side_file_of_this_schema_keeps_loading(tmp_path):
    """As version 0.1.0 wrote it: change this text never, add a second one instead."""
    written = """{
      "schema": 1, "version": "0.1.0",
      "method": {"name": "ltp", "args": {"final_threshold": 0.02, "temperature": 0.001,
        "strength": 0.1, "target": 0.5, "soft_rule": "attention", "reference_length": null,
        "epochs": [1.0, 2.0], "learning_rates": [2e-05, 0.0001, 5e-06]}},
      "kernel": "auto", "protect": [102]}"""
    (tmp_path / SIDE_FILE).write_text(written)
    message = LTP(
        final_threshold=0.02, temperature=1e-3, strength=0.1, target=0.5, epochs=(1.0, 2.0)
    )
    assert read_settings(tmp_path) == Settings(message, "auto", (102,))


def test_a_folder_without_side_file_has_no_method(tmp_path):
    assert read_settings(tmp_path) == Settings(Dense())


def test_a_setting_that_is_a_method_may_be_changed_in_part():
    method = method_from({"name": "magic_pyramid", "args": {"pruning": {"target": 0.3}}})
    assert method.pruning == LTP(target=0.3)
    assert method.exits == MagicPyramid().exits
    changed = method_from({"name": "magic_pyramid", "args": {"exits": {"name": "pabee"}}})
    assert changed.exits == PABEE()


def test_a_bad_setting_of_a_method_inside_is_named():
    with pytest.raises(ValueError, match=r"'ltp': setting .*'tarket' \(did you mean 'target'"):
        method_from({"name": "magic_pyramid", "args": {"pruning": {"tarket": 0.3}}})


def test_a_setting_of_a_wrong_type_is_refused_when_described():
    with pytest.raises(ValueError, match=r"attention_window .*8\.0"):
        Stack((LTP(), Longformer(attention_window=8.0)))


def test_a_method_outside_the_table_is_attached_as_it_is():
    @dataclass(frozen=True)
    class Mine(Dense):
        size: int = 2

    stack = Stack((Mine(size=2.5), LTP()))
    assert fewer.attachment(fewer.attach(tiny(), stack)).method.methods[0].size == 2.5
