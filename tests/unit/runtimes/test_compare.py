"""Comparison of systems: logits first, then latency."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewer.runtimes.adapters import REFERENCE, Runner, Setup
from fewer.runtimes.compare import compare, compute_logits, cut_fixed_length
from fewer.runtimes.feeding import Inputs
from fewer.runtimes.lineup import OURS, Lineup, line_up
from tests.clock import Clock
from tests.rounding import assert_same
from tests.tiny import ragged, word_tokenizer
from tests.unit.measure.engine import (
    FAKES,
    LENGTHS,
    encoded,
    faithful,
    pruned,
    shape,
    without_engine,
)

PEAK = {"fp32": 1e9, "bf16": 1e10}


@pytest.fixture
def lineup(monkeypatch: pytest.MonkeyPatch) -> Lineup:
    without_engine(monkeypatch)
    model = pruned()
    return line_up(model, None, ragged(model), peers=FAKES)


def run(lineup: Lineup, **options: Any) -> dict[str, Any]:
    options = {"batch_sizes": [1, 4], "num_batches": 2, "runs": 3, **options}
    return compare(lineup, encoded(), word_tokenizer(), shape(), PEAK, **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.install(monkeypatch, "fewer.measure.interleaved", "fewer.runtimes.timing")
    return clock


def simulate(clock: Clock, milliseconds: float, precision: str, per_token: float = 0.0) -> Runner:
    """Return a system with a fixed latency per batch and per token without padding."""

    def call(inputs: Inputs) -> torch.Tensor:
        tokens = int(inputs["attention_mask"].sum())
        clock.sleep((milliseconds + per_token * tokens) / 1e3)
        return torch.zeros(len(inputs["input_ids"]), 3)

    return Runner(call, precision)


def test_failing_systems_are_dropped_and_wrong_ones_marked(lineup: Lineup) -> None:
    comparison = run(lineup)
    assert list(comparison["systems"]) == [REFERENCE, "lying-fp32", *OURS]
    assert (
        comparison["missing"]["breaking-int8"] == "does not run: RuntimeError: cannot read 3 texts"
    )
    assert [name for name, system in comparison["systems"].items() if system.get("wrong")] == [
        "lying-fp32"
    ]
    assert comparison["systems"]["lying-fp32"]["difference"] == pytest.approx(1.0, abs=1e-5)
    assert comparison["systems"]["lying-fp32"]["agreement"] == 1.0
    assert comparison["systems"]["packed-fp32"]["difference"] < 1e-4
    assert {name for best in comparison["best"].values() for name in best.values()} == {REFERENCE}


def test_rounds_are_complete_and_tokens_exclude_padding(lineup: Lineup) -> None:
    comparison = run(lineup)
    for system in comparison["systems"].values():
        for size in ("1", "4"):
            latency = system["latency_ms"][size]
            assert latency["runs"] == 4  # two rounds of the pool, for three runs
            assert 0 < latency["p5"] <= latency["median"] <= latency["p95"]
    assert all(tokens <= 4 * max(LENGTHS) for _, tokens in comparison["batches"]["4"])


def test_the_throughput_excludes_padding(clock: Clock) -> None:
    comparison = run(Lineup({REFERENCE: simulate(clock, 0.0, "fp32", per_token=2.0)}))
    for size in ("1", "4"):
        latency = comparison["systems"][REFERENCE]["latency_ms"][size]
        tokens = [tokens for _, tokens in comparison["batches"][size]]
        assert latency["tokens_per_s"] == pytest.approx(500)
        assert latency["median"] == pytest.approx(2 * sum(tokens) / len(tokens))


def test_ratios_compare_with_the_fastest_of_the_precision_and_of_all(clock: Clock) -> None:
    lineup = Lineup(
        {
            REFERENCE: simulate(clock, 8, "fp32"),
            "slow-bf16": simulate(clock, 12, "bf16"),
            "fast-int8": simulate(clock, 2, "int8"),
            "packed-fp32": simulate(clock, 4, "fp32"),
            "packed-bf16": simulate(clock, 4, "bf16"),
        }
    )
    comparison = run(lineup, batch_sizes=[2])
    assert comparison["best"]["2"] == {
        "all": "fast-int8",
        "fp32": REFERENCE,
        "bf16": "slow-bf16",
        "int8": "fast-int8",
    }
    fp32, bf16 = (
        comparison["systems"][f"packed-{precision}"]["latency_ms"]["2"]
        for precision in ("fp32", "bf16")
    )
    assert fp32["ratio_same"] == pytest.approx(2.0)
    assert bf16["ratio_same"] == pytest.approx(3.0)
    assert fp32["ratio_all"] == bf16["ratio_all"] == pytest.approx(0.5)
    rival = comparison["systems"]["fast-int8"]["latency_ms"]["2"]
    assert "ratio_all" not in rival
    assert "share" not in rival  # there is no peak of int8


def test_peers_count_in_their_fastest_feeding(clock: Clock) -> None:
    def pay_for_padding(inputs: Inputs) -> torch.Tensor:
        clock.sleep(inputs["input_ids"].numel() / 1e3)
        return torch.zeros(len(inputs["input_ids"]), 3)

    lineup = Lineup(
        {
            REFERENCE: Runner(pay_for_padding, "fp32"),
            "packed-fp32": simulate(clock, 1.0, "fp32", per_token=0.5),
        }
    )
    comparison = run(lineup, batch_sizes=[8], num_batches=1, runs=1)
    padded, packed = (system["latency_ms"]["8"] for system in comparison["systems"].values())
    tokens = sum(LENGTHS)
    assert padded["feeding"] == "alone"
    assert padded["feedings"]["whole"]["cpu"] == pytest.approx(8 * max(LENGTHS))
    assert padded["feedings"]["alone"]["cpu"] == padded["median"] == pytest.approx(tokens)
    assert packed["feeding"] == "whole"
    assert packed["feedings"]["alone"]["wall"] == pytest.approx(8 + tokens / 2)
    expected = tokens / (1 + tokens / 2)
    assert packed["ratio_all"] == packed["cpu_ratio_same"] == pytest.approx(expected)


def test_answers_that_depend_on_the_feeding_are_seen(clock: Clock) -> None:
    def answer_single(inputs: Inputs) -> torch.Tensor:
        clock.sleep(1)
        alone = float(len(inputs["input_ids"]) == 1)
        return torch.tensor([[0.0, alone, 0.0]]).repeat(len(inputs["input_ids"]), 1)

    lineup = Lineup({REFERENCE: simulate(clock, 1, "fp32"), "odd": Runner(answer_single, "int8")})
    systems = run(lineup, batch_sizes=[4])["systems"]
    assert (systems["odd"]["difference"], systems["odd"]["agreement"]) == (1.0, 0.0)


def test_the_share_is_dense_flops_over_time_over_peak(clock: Clock) -> None:
    lineup = Lineup({REFERENCE: simulate(clock, 5, "fp32")})
    comparison = run(lineup, batch_sizes=[1], num_batches=1, runs=5)
    ((_, tokens),) = comparison["batches"]["1"]
    flops = float(shape().dense_flops(torch.tensor([float(tokens)])).sum())
    share = comparison["systems"][REFERENCE]["latency_ms"]["1"]["share"]
    assert share == pytest.approx(flops / 0.005 / PEAK["fp32"])


def test_a_reference_that_does_not_run_is_an_error() -> None:
    model = pruned()
    lineup = Lineup({REFERENCE: FAKES["breaking-int8"](Setup(model, ragged(model), 1))})
    with pytest.raises(RuntimeError, match="cannot read"):
        run(lineup)


def test_logits_come_in_the_order_of_the_rows() -> None:
    model = pruned()
    runner = faithful(Setup(model, ragged(model), 1))
    logits = compute_logits(runner, encoded(), word_tokenizer(), title="x")
    for row, ids in enumerate(encoded()["input_ids"]):
        with torch.inference_mode():
            single = model(input_ids=torch.tensor([ids])).logits[0]
        assert_same(logits[row], single)


def test_texts_of_fixed_length_hold_the_words_of_the_rows() -> None:
    texts = cut_fixed_length(encoded(), 6, 20, special=[0, 2, 3])
    assert texts["length"] == [6] * 20
    assert {(ids[0], ids[-1], len(ids)) for ids in texts["input_ids"]} == {(2, 3, 6)}
    words = [token for ids in encoded()["input_ids"] for token in ids[1:-1]]
    inner = [token for ids in texts["input_ids"] for token in ids[1:-1]]
    assert inner == (words * 2)[:80]
    assert "token_type_ids" not in texts.column_names
    paired = encoded().add_column("token_type_ids", [[1] * n for n in LENGTHS])
    assert cut_fixed_length(paired, 4, 1, special=[])["token_type_ids"] == [[0] * 4]


@pytest.mark.parametrize(
    ("tokens", "special", "match"), [(2, [], "tokens"), (5, list(range(60)), "special tokens")]
)
def test_too_short_texts_and_rows_without_words_are_refused(
    tokens: int, special: list[int], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        cut_fixed_length(encoded(), tokens, 1, special)
