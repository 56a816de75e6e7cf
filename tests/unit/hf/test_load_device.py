"""`fewer.load(device=...)` and the option of the commands."""

import pytest
import torch

import fewer
from fewer import LTP
from tests.tiny import tiny
from tests.unit.cli.test_commands import run

GPUS = torch.cuda.device_count()


@pytest.fixture
def folder(tmp_path):
    fewer.save(fewer.attach(tiny(), LTP(final_threshold=0.1)), tmp_path / "model")
    return tmp_path / "model"


def test_the_cpu_by_name_is_as_no_device(folder):
    named, plain = fewer.load(folder, device="cpu"), fewer.load(folder)
    assert named.device == plain.device == torch.device("cpu")
    assert repr(named) == repr(plain)


@pytest.mark.parametrize("device", ["tpu", "meta", "mps", f"cuda:{GPUS}"])
def test_a_device_that_is_not_there_is_refused_by_name(folder, device):
    with pytest.raises(ValueError, match=f"device must be.*{device}"):
        fewer.load(folder, device=device)


def test_commands_refuse_it_too(folder, tmp_path, capsys):
    data = tmp_path / "data.csv"
    data.write_text("text,label\na,0\nb,1\n", encoding="utf-8")
    assert run("evaluate", folder, "--data", data, "--device", f"cuda:{GPUS}") == 2
    assert "device must be" in capsys.readouterr().err
    assert run("bench", folder, "--data", data, "--device", "cpu", "--peers") == 2
    assert "--device" in capsys.readouterr().err
