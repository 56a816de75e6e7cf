"""The table of attentions, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fewer_lra.attentions import ATTENTIONS, AttentionSpec, build
from tests.unit.fewer_lra.attentions.cases import LONGEST, batch, spec


def test_an_unknown_attention_is_refused_with_the_known_ones() -> None:
    known = "softmax, local, sparse, longformer, linformer, reformer, sinkhorn, synthesizer, "
    wanted = f"attention 'linfromer' is unknown (did you mean 'linformer'?); known: {known}big"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        build("linfromer", spec(), {})


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'bigbird': setting 'blocks' is unknown .*: block, ran"):
        build("bigbird", spec(), {"blocks": 4, "window": 2})
    with pytest.raises(ValueError, match="'linear': setting 'block' is unknown; known: none"):
        build("linear", spec(), {"block": 4})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local", {"block": 0}, "block must be 1 or more"),
        ("sparse", {"block": 4, "summary": 5}, "summary must be at most block .4.; got 5"),
        ("sparse", {"summary": 0}, "summary must be 1 or more"),
        ("longformer", {"window": 0}, "window must be an even number.*; got 0"),
        ("longformer", {"window": "abc"}, "'longformer': window is 'abc', wanted a whole number"),
        ("reformer", {"buckets": 4.0}, "buckets is 4.0, wanted a whole number or none"),
        ("longformer", {"window": 7}, "window must be an even number.*; got 7"),
        ("linformer", {"rank": 0}, "rank must be 1 or more"),
        ("reformer", {"chunk": 0}, "chunk must be 1 or more"),
        ("reformer", {"hashes": 0}, "hashes must be 1 or more"),
        ("reformer", {"buckets": 5}, "buckets must be an even number.*; got 5"),
        ("sinkhorn", {"block": -1}, "block must be 1 or more"),
        ("sinkhorn", {"iterations": 0}, "iterations must be 1 or more"),
        ("sinkhorn", {"temperature": 0.0}, "temperature must be above 0"),
        ("synthesizer", {"rank": 0}, "rank must be 1 or more"),
        ("bigbird", {"block": 0}, "block must be 1 or more"),
        ("bigbird", {"random": -1}, "random must be 0 or more"),
        ("performer", {"features": 0}, "features must be 1 or more"),
        ("performer", {"epsilon": 0.0}, "epsilon must be above 0"),
    ],
)
def test_settings_outside_their_range_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, spec(), options)


@pytest.mark.parametrize(
    "changes", [{"heads": 0}, {"max_length": 0}, {"dropout": 1.0}, {"layer": -1}]
)
def test_a_spec_without_size_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sizes must be 1 or more, dropout in"):
        spec(**changes)


@pytest.mark.parametrize("name", ["linformer", "sinkhorn", "synthesizer"])
def test_texts_longer_than_the_parameters_are_refused(name: str) -> None:
    given = batch([LONGEST + 1, 3])
    with pytest.raises(ValueError, match=r"max_length .* columns, 25; got 24"):
        build(name, spec(), {})(*given)


@pytest.mark.parametrize("name", [*ATTENTIONS])
def test_the_defaults_fit_a_text_of_a_thousand_bytes(name: str) -> None:
    attention = build(name, AttentionSpec(heads=4, width=64, hidden=256, max_length=1001), {})
    wanted = {
        "longformer": 3 * 256 * 256,
        "linformer": 1001 * 16,
        "sinkhorn": 4 * 64 * 21,
        "synthesizer": 4 * 1001 * 1001,
    }
    assert sum(one.numel() for one in attention.parameters()) == wanted.get(name, 0)
