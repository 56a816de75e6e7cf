"""Law 7, the other side: a folder that is not whole, or not understood, says so clearly."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import fewer
from fewer import LTP
from fewer.config import SCHEMA, SIDE_FILE
from tests.rounding import assert_same
from tests.tiny import ragged, tiny

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    fewer.save(fewer.attach(tiny(), LTP(final_threshold=0.2)), tmp_path)
    return tmp_path


def _edit(folder, **changes):
    """Change keys of the side file."""
    content = json.loads((folder / SIDE_FILE).read_text()) | changes
    (folder / SIDE_FILE).write_text(json.dumps(content))


def _reweigh(folder, change):
    """Rewrite the tensors of a folder."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": SCHEMA + 1}, rf"has schema {SCHEMA + 1}, .* install the version that wrote it"),
        ({"schema": None}, "has schema None"),
        ({"method": "lpt"}, r"method 'lpt' is unknown \(did you mean 'ltp'\?\); known: berxit"),
        ({"method": {"name": "ltp", "args": {"treshold": 1}}}, "setting 'treshold' is unknown"),
        ({"method": {"name": "ltp", "target": 0.5}}, "wanted the name of a method or"),
        ({"method": {"name": "ltp", "args": [1]}}, "has the args"),
        ({"method": {"name": ["ltp"]}}, r"method \['ltp'\] is unknown"),
        ({"method": {"args": {}}}, "wanted the name of a method or"),
        ({"method": 5}, "got 5, wanted the name of a method"),
        (
            {"method": {"name": "ltp", "args": {"temperature": "cold"}}},
            "temperature is 'cold', wanted a number",
        ),
        ({"method": {"name": "ltp", "args": {"temperature": -1}}}, "temperature is -1, wanted"),
        (
            {"kernel": "magic"},
            "unknown kernel 'magic'; choose one of: auto, native, reference, sdpa",
        ),
        ({"protect": 5}, "has protect 5, wanted a list of token ids"),
        ({"protect": ["[SEP]"]}, "wanted a list of token ids"),
        ({"colour": "red"}, r"has unknown keys \['colour'\]"),
    ],
)
def test_a_side_file_that_is_not_understood_says_what_was_wanted(folder, changes, message):
    _edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        fewer.load(folder)


@pytest.mark.parametrize("content", ["", "{", '{"schema": 1', "\x00", "[1, 2"])
def test_a_broken_side_file_is_named(folder, content):
    (folder / SIDE_FILE).write_text(content)
    with pytest.raises(ValueError, match=rf"{SIDE_FILE} is not valid JSON"):
        fewer.load(folder)


@pytest.mark.parametrize("content", ["[]", "{}", "5", "null", '{"schema": 1}'])
def test_a_side_file_without_a_method_is_refused(folder, content):
    (folder / SIDE_FILE).write_text(content)
    with pytest.raises(ValueError, match="holds no method; wanted the keys"):
        fewer.load(folder)


def test_a_newer_version_of_the_same_schema_loads_with_a_warning(folder):
    _edit(folder, version="99.0.0")
    with pytest.warns(UserWarning, match=rf"by fewer 99\.0\.0, this is {fewer.__version__}"):
        loaded = fewer.load(folder)
    assert fewer.attachment(loaded).method == LTP(final_threshold=0.2)


@pytest.mark.parametrize("version", ["0.0.1", fewer.__version__, "0.0.9rc1"])
def test_an_older_version_of_the_same_schema_loads_silently(folder, version):
    _edit(folder, version=version)
    assert fewer.attachment(fewer.load(folder)).method == LTP(final_threshold=0.2)


def test_a_lost_side_file_is_noticed_by_the_tensors_it_described(folder):
    (folder / SIDE_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds the tensors \{'threshold': \(2,\)\} of a method"):
        fewer.load(folder)


def test_lost_thresholds_are_noticed(folder):
    _reweigh(folder, lambda held: {k: v for k, v in held.items() if "threshold" not in k})
    with pytest.raises(ValueError, match=r"holds the tensors \{\} of a method, wanted"):
        fewer.load(folder)


def test_thresholds_of_another_depth_are_noticed(folder):
    _reweigh(folder, lambda held: held | {"bert.fewer.policy.threshold": torch.ones(5)})
    with pytest.raises(ValueError, match=r"threshold': \(5,\)\}.*wanted \{'threshold': \(2,\)\}"):
        fewer.load(folder)


def test_lost_weights_are_not_made_up(folder):
    _reweigh(folder, lambda held: {k: v for k, v in held.items() if "classifier" not in k})
    with pytest.raises(ValueError, match=r"no weights for \['classifier.bias', 'classifier.weig"):
        fewer.load(folder)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        fewer.load(folder)


@pytest.mark.parametrize("size", [0, 4, 100, 5000])
def test_truncated_weights_are_named(folder, size):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} cannot be read .* truncated or broken"):
        fewer.load(folder)


def test_a_broken_config_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        fewer.load(folder)


def test_an_unknown_architecture_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForTelepathy"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"'BertForTelepathy', which transformers .* does not"):
        fewer.load(folder)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    model = fewer.attach(tiny(), LTP(final_threshold=0.2))
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    if damage == "missing":
        shard.unlink()
        wanted = pytest.raises(FileNotFoundError, match=f"{shard.name} is missing")
    else:
        shard.write_bytes(shard.read_bytes()[:-10])
        wanted = pytest.raises(ValueError, match=f"{shard.name} cannot be read")
    with wanted:
        fewer.load(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./nowhere"])
def test_a_path_that_is_no_folder_says_so(tmp_path, name):
    place = tmp_path / "nowhere" if name == "nowhere" else name
    with pytest.raises(FileNotFoundError, match=r"not a folder; wanted one written by fewer\.save"):
        fewer.load(place)


def test_adapters_that_are_not_merged_are_not_saved_as_a_model(tmp_path):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(fewer.attach(tiny(), LTP(final_threshold=0.2)), settings).eval()
    with pytest.raises(ValueError, match="merge_and_unload"):
        fewer.save(adapted, tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    batch = ragged(tiny())
    with torch.no_grad():
        wanted = adapted(**batch).logits
        fewer.save(adapted.merge_and_unload(), tmp_path)
        assert_same(fewer.load(tmp_path)(**batch).logits, wanted)
