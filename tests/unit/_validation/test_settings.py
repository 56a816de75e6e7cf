import dataclasses
import math
import pickle
import re
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge

from fewer._validation.settings import OneOf, build, checked, settings, validate
from fewer._validation.types import Count, Fraction, LayerNumbers, NonNegative, Number, Pair, Whole


@settings
class Oven:
    plates: Count = 2
    heat: Fraction = 0.5
    grill: bool = False
    mode: Literal["upper", "lower"] = "upper"
    gas: Annotated[str, OneOf(("town", "natural"))] = "town"
    timer: Whole | None = None
    steps: Pair = (1.0, 2.0)
    shelves: LayerNumbers | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.grill and self.heat < 0.1:
            raise ValueError(f"heat must be 0.1 or more to grill; got {self.heat}.")


@settings
class Grill(Oven):
    heat: Fraction = 0.9
    grill: bool = True


@settings
class Kitchen:
    oven: Oven = field(kw_only=False)
    name: str


@checked
def roast(degrees: Number, *, minutes: NonNegative = 10.0) -> tuple[float, float]:
    return degrees, minutes


@pytest.mark.parametrize(
    ("name", "given", "stored"),
    [
        ("plates", np.int64(3), 3),
        ("heat", np.float32(0.25), 0.25),
        ("grill", True, True),
        ("gas", "natural", "natural"),
        ("timer", None, None),
        ("steps", [1, 2.5], (1.0, 2.5)),
        ("shelves", [1, 2, 3], (1, 2, 3)),
        ("shelves", (), ()),
    ],
)
def test_values_of_the_annotated_type_are_stored_as_plain_values(name, given, stored):
    value = getattr(Oven(**{name: given}), name)
    assert value == stored
    assert type(value) is type(stored)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("plates", value) for value in (3.0, True, None, "3", 0, 10**30, -(2**63))),
        *(("heat", value) for value in (0.0, 1.0, 1, True, "0.5", math.nan, np.float32("nan"))),
        *(("grill", value) for value in (1, "true", None)),
        *(("mode", value) for value in ("middle", 3, None)),
        *(("gas", value) for value in ("bottled", 3)),
        *(("timer", value) for value in (2.5, "soon", False)),
        *(("steps", value) for value in (2.0, (1.0,), (1, 2, 3), (1.0, "2"), (1.0, -math.inf))),
        *(("shelves", value) for value in ([0], [1, 2.0], "12", 1)),
        ("extras", []),
    ],
)
def test_values_of_another_type_or_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name}(\[\d\])? must ") as caught:
        Oven(**{name: value})
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Oven(mode="uper"),
            "mode must be 'upper' or 'lower'; got 'uper' (did you mean 'upper'?). The default is "
            "'upper'.",
        ),
        (
            lambda: Oven(steps=[1.0, -2]),
            "steps[1] must be greater than or equal to 0; got -2. The default is (1.0, 2.0).",
        ),
        (lambda: Oven(timer=2**63), f"timer must be below 2**63; got {2**63}."),
        (lambda: Grill(heat=0.05), "heat must be 0.1 or more to grill; got 0.05."),
        (lambda: Kitchen(3, name="x"), "oven must be an instance of Oven; got 3."),
        (lambda: roast("hot"), "degrees must be a valid number; got 'hot'."),
        (
            lambda: roast(180, minutes=-1),
            "minutes must be greater than or equal to 0; got -1. The default is 10.0.",
        ),
        (lambda: validate(Fraction | None, 2, "share"), "share must be less than 1; got 2."),
    ],
)
def test_an_error_names_the_setting_its_constraint_and_the_value(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Oven(heet=0.5), "setting must be one of plates, .* 'heet' .did you mean 'heat'"),
        (lambda: Oven(0.5), "settings must be given by name; got a positional 0.5"),
        (lambda: Kitchen(), "oven and name must be given"),
        (lambda: Kitchen(Oven(), nam="x"), "setting must be one of name; got 'nam'"),
        (lambda: roast(180, minute=5), "setting must be one of minutes; got 'minute'"),
        (lambda: roast(), "degrees must be given"),
    ],
)
def test_arguments_that_do_not_fit_are_type_errors(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_settings_are_frozen_dataclasses():
    oven = Grill(shelves=(1, 2), steps=(3, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        oven.heat = 0.2
    assert dataclasses.replace(oven, plates=4) == Grill(plates=4, shelves=(1, 2), steps=(3, 4))
    assert dataclasses.asdict(oven)["steps"] == (3.0, 4.0)
    assert pickle.loads(pickle.dumps(oven)) == oven
    assert repr(Kitchen(oven, name="k")).startswith("Kitchen(oven=Grill(plates=2, heat=0.9,")
    assert [entry.name for entry in dataclasses.fields(Kitchen)] == ["oven", "name"]


def test_a_built_value_names_the_origin_of_its_settings():
    assert build(Oven, {"plates": 4}, "oven.yaml") == Oven(plates=4)
    for values in ({"heat": 2}, {"heet": 2}, {1: 2}):
        with pytest.raises(ValueError, match=r"^oven\.yaml: "):
            build(Oven, values, "oven.yaml")


def test_a_value_is_checked_by_its_annotation():
    assert validate(Annotated[Whole, Ge(2)], np.int32(3), "count") == 3
    with pytest.raises(ValueError, match=r"^count must be greater than or equal to 2; got 1\.$"):
        validate(Annotated[Whole, Ge(2)], 1, "count")


def test_a_default_stays_with_its_setting():
    """With `Field` in place of `Ge`, pydantic 2.11 gave `minutes` of `roast` to later settings."""

    @checked
    def bake(*, minutes: NonNegative) -> float:
        return minutes

    with pytest.raises(TypeError, match="minutes must be given"):
        bake()
