"""The table of attentions, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fewer_lra.attentions import ATTENTIONS, AttentionSpec, build
from tests.unit.fewer_lra.attentions.cases import LONGEST, batch, spec


def test_an_unknown_attention_is_refused_with_the_known_ones() -> None:
    known = "softmax, local, sparse, longformer, linformer, reformer, sinkhorn, synthesizer, "
    wanted = "linear, performer; got 'linfromer' (did you mean 'linformer'?)"
    with pytest.raises(ValueError, match=f"attention must be one of {known}.*{re.escape(wanted)}"):
        build("linfromer", spec(), {})


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'bigbird': setting .* block, random; got 'blocks'"):
        build("bigbird", spec(), {"blocks": 4, "window": 2})
    with pytest.raises(ValueError, match=r"'linear': setting .*'block'"):
        build("linear", spec(), {"block": 4})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local", {"block": 0}, "block"),
        ("sparse", {"block": 4, "summary": 5}, "summary"),
        ("sparse", {"summary": 0}, "summary"),
        ("longformer", {"window": 0}, "window"),
        ("longformer", {"window": "abc"}, "window"),
        ("reformer", {"buckets": 4.0}, "buckets"),
        ("longformer", {"window": 7}, "window"),
        ("linformer", {"rank": 0}, "rank"),
        ("reformer", {"chunk": 0}, "chunk"),
        ("reformer", {"hashes": 0}, "hashes"),
        ("reformer", {"buckets": 5}, "buckets"),
        ("sinkhorn", {"block": -1}, "block"),
        ("sinkhorn", {"iterations": 0}, "iterations"),
        ("sinkhorn", {"temperature": 0.0}, "temperature"),
        ("synthesizer", {"rank": 0}, "rank"),
        ("bigbird", {"block": 0}, "block"),
        ("bigbird", {"random": -1}, "random"),
        ("performer", {"features": 0}, "features"),
        ("performer", {"epsilon": 0.0}, "epsilon"),
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
def test_a_shape_without_size_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
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
