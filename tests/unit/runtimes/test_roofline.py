"""The fastest matrix product."""

from __future__ import annotations

from fewer.runtimes.roofline import gemm_peak


def test_every_precision_has_a_rate_that_a_machine_can_have() -> None:
    peak = gemm_peak(sizes=((16, 64, 32), (64, 64, 64)), runs=2)
    assert list(peak) == ["fp32", "bf16"]
    assert all(1e6 < rate < 1e16 for rate in peak.values())
