import math
from dataclasses import dataclass
from typing import Literal, get_type_hints

import numpy as np
import pytest
import yaml

from fewer._validation.types import check_types, read_values


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "1.e-3", "+1e-3", ".1e-2", "0.001"])
def test_a_number_may_be_written_as_in_python(text):
    assert read_values(text, "it") == 0.001
    assert read_values(f"[{text}, {{a: {text}}}]", "it") == [0.001, {"a": 0.001}]


@pytest.mark.parametrize(
    "text",
    ["3", "-1.5", "true", "auto", "null", "e-3", "1e", "1e-3x", "'1e-3'", "2024-01-01", "[]"],
)
def test_all_else_is_yaml(text):
    assert read_values(text, "it") == yaml.safe_load(text)


def test_invalid_yaml_and_objects_are_refused_with_their_origin():
    with pytest.raises(ValueError, match=r"recipe\.yaml is not valid YAML: while parsing"):
        read_values("{a: ", "recipe.yaml")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        read_values("!!python/object/apply:os.getcwd []", "recipe.yaml")


@dataclass
class Oven:
    plates: int = 2
    heat: float = 0.5
    grill: bool = False
    mode: Literal["upper", "lower"] = "upper"
    timer: int | None = None
    steps: tuple[float, float] = (1.0, 2.0)
    shelves: tuple[int, ...] | None = None
    inner: object = None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plates", 3),
        ("plates", np.int64(3)),
        ("heat", 1),
        ("heat", np.float32(0.5)),
        ("grill", True),
        ("mode", "middle"),  # a word, if none of the choice
        ("timer", None),
        ("steps", [1, 2.5]),
        ("shelves", ()),
        ("shelves", (1, 2, 3)),
        ("inner", 3),
        ("another", 3),
    ],
)
def test_values_of_the_annotated_type_are_accepted(name, value):
    check_types({name: value}, get_type_hints(Oven), "oven")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("plates", 3.0, "plates is 3.0, wanted a whole number"),
        ("plates", True, "plates is True, wanted a whole number"),
        ("plates", None, "plates is None, wanted a whole number"),
        ("plates", 10**30, "plates is 10{30}, wanted a whole number, finite and below"),
        ("timer", -(2**63), "timer is -"),
        ("heat", math.nan, "heat is nan, wanted a number, finite"),
        ("heat", -math.inf, "heat is -inf, wanted a number, finite"),
        ("heat", np.float32("nan"), "heat is .*nan"),
        ("steps", (1.0, math.nan), "wanted a list \\(a number each\\)"),
        ("heat", "1e-3", "heat is '1e-3', wanted a number"),
        ("heat", False, "heat is False, wanted a number"),
        ("grill", 1, "grill is 1, wanted true or false"),
        ("mode", 3, "mode is 3, wanted a word"),
        ("timer", "soon", "timer is 'soon', wanted a whole number or none"),
        ("steps", 2.0, "steps is 2.0, wanted a list \\(a number each\\)"),
        ("steps", (1.0, "2"), "wanted a list \\(a number each\\)"),
        ("shelves", [1, 2.0], "wanted a list \\(a whole number each\\) or none"),
    ],
)
def test_values_of_another_type_are_refused_with_the_expected_type(name, value, expected):
    with pytest.raises(ValueError, match=f"oven: .*{expected}"):
        check_types({name: value}, get_type_hints(Oven), "oven")


def test_deeply_nested_yaml_is_refused_with_its_origin():
    with pytest.raises(ValueError, match="--set"):
        read_values("[" * 100_000, "--set x")
