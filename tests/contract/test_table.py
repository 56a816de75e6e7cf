"""The rows that the laws run over by default, and all of the rest where slow tests are wanted."""

import pytest

import fewer
from tests.contract.table import (
    BACKBONES,
    CORE_FAMILIES,
    CORE_METHODS,
    KERNELS,
    METHODS,
    law_of_families,
    law_of_methods,
    method_in_turn,
)
from tests.tiny import SHARING, tiny

LAWS = [law_of_methods, law_of_families]


def _rows(law, *, slow, **options):
    """List the rows of a law: of a default run, or all of them."""
    rows = law(**options).mark.args[1]
    return [row.values for row in rows if slow or not row.marks]


@pytest.mark.parametrize("law", LAWS)
def test_every_method_family_and_kernel_has_a_row_in_a_default_run(law):
    methods, backbones, kernels = map(set, zip(*_rows(law, slow=False, kernels=True), strict=True))
    assert methods == set(METHODS)
    assert backbones == set(BACKBONES)
    assert kernels == set(KERNELS)


@pytest.mark.parametrize("law", LAWS)
def test_slow_rows_complete_the_cross(law):
    pairs = [(m, b) for m, case in METHODS.items() for b in BACKBONES if case.runs_on(b)]
    assert _rows(law, slow=True) == pairs
    assert _rows(law, slow=True, kernels=True) == [(*pair, k) for pair in pairs for k in KERNELS]


def test_a_law_of_methods_runs_every_method_over_the_core_families():
    rows = _rows(law_of_methods, slow=False)
    for method, case in METHODS.items():
        backbones = {backbone for name, backbone in rows if name == method}
        wanted = _families(method) if method in CORE_METHODS else CORE_FAMILIES
        assert backbones == {backbone for backbone in wanted if case.runs_on(backbone)}


def _families(method):
    """List the families that run a core method by default."""
    return [name for name in BACKBONES if name not in SHARING or method_in_turn(name) == method]


def test_a_law_of_families_runs_the_core_methods_over_every_family():
    rows = _rows(law_of_families, slow=False)
    assert len(rows) == len(set(rows))
    for method in METHODS:
        backbones = {backbone for name, backbone in rows if name == method}
        if method in CORE_METHODS:
            assert backbones == set(_families(method))
        else:
            assert len(backbones) == 1


def test_families_that_share_layers_run_one_core_method_each():
    rows = _rows(law_of_families, slow=False)
    methods = [method for method, backbone in rows if backbone in SHARING]
    assert len(methods) == len(set(SHARING) & set(BACKBONES))
    assert {"dense", "ltp", "freeze"} <= set(methods)


def test_rows_say_whether_their_methods_have_exits():
    for name, case in METHODS.items():
        for task in case.tasks:
            attached = fewer.attachment(fewer.attach(tiny("bert", task), case.method))
            assert attached.has_exits is case.has_exits, name
