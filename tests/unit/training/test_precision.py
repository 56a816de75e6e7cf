import pytest
import torch

from fewer.training import precision
from fewer.training.precision import choose

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_named_precision_is_returned(name):
    assert choose(name, CPU) == name


def test_fp16_on_a_cpu_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"^precision .*'bf16' or 'fp32' on a CPU.*got 'fp16'"):
        choose("fp16", CPU)


@pytest.mark.parametrize("name", ["half", "float32", "", None])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=rf"^precision must be .*got {name!r}"):
        choose(name, CPU)


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(4.0, 1.0, "bf16"), (1.0, 4.0, "fp32"), (1.4, 1.0, "fp32"), (1.6, 1.0, "bf16")],
)
def test_auto_takes_bf16_only_where_it_is_clearly_faster(fp32, bf16, expected, monkeypatch):
    times = {torch.float32: fp32, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "_time_product", lambda dtype, device: times[dtype])
    assert choose("auto", CPU) == expected


def test_auto_resolves_on_this_machine():
    assert choose("auto", CPU) in ("fp32", "bf16")
