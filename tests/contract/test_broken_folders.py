"""Law 7, the other side: a folder that is not whole, or not understood, says so clearly."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BertForSequenceClassification

import fewer
import fewer.methods.attention
from fewer import LTP
from fewer._files.manifest import MANIFEST
from fewer.hf.side_file import MARK, SCHEMA, SIDE_FILE
from tests.faults import files_of_at_most
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
    (folder / MANIFEST).unlink()  # changed on purpose


def _reweigh(folder, change):
    """Rewrite the tensors of a folder."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": SCHEMA + 1}, rf"schema {SCHEMA + 1}, .*Install the version that wrote it"),
        ({"schema": None}, "schema None"),
        ({"method": "lpt"}, r"method .*berxit.*'lpt' \(did you mean 'ltp'\?\)"),
        ({"method": {"name": "ltp", "args": {"treshold": 1}}}, "setting .*'treshold'"),
        ({"method": {"name": "ltp", "target": 0.5}}, "method must be a name or"),
        ({"method": {"name": "ltp", "args": [1]}}, "args of method"),
        ({"method": {"name": ["ltp"]}}, r"method .*\['ltp'\]"),
        ({"method": {"args": {}}}, "method must be a name or"),
        ({"method": 5}, "method must be a name or .* got 5"),
        (
            {"method": {"name": "ltp", "args": {"temperature": "cold"}}},
            "temperature .*'cold'",
        ),
        ({"method": {"name": "ltp", "args": {"temperature": -1}}}, "temperature .*-1"),
        (
            {"kernel": "magic"},
            "kernel must be one of auto, gpu, native, reference, sdpa; got 'magic'",
        ),
        ({"protect": 5}, "protect .*5"),
        ({"protect": ["[SEP]"]}, "protect"),
        ({"protect": [-1]}, "protect"),
        ({"protect": [True]}, "protect"),
        ({"protect": [10**30]}, "protect"),
        ({"kernel": ["sdpa"]}, "kernel"),
        ({"version": None}, "version"),
        ({"method": {"name": "ltp", "args": {"reference_length": 10**30}}}, "reference_length"),
        ({"colour": "red"}, "fewer.json: setting .*'colour'"),
    ],
)
def test_a_side_file_that_is_not_understood_says_what_was_wanted(folder, changes, message):
    _edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        fewer.load(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"schema": 1', "\x00", "[1, 2", "[]", "5", "null", "[" * 100_000, '{"schema": NaN}'],
)
def test_a_broken_side_file_is_named(folder, content):
    (folder / SIDE_FILE).write_text(content)
    with pytest.raises(ValueError, match=SIDE_FILE):
        fewer.load(folder)


@pytest.mark.parametrize(
    ("content", "key"), [("{}", "schema"), ('{"schema": 1}', "method and version")]
)
def test_a_side_file_without_a_method_is_refused(folder, content, key):
    (folder / SIDE_FILE).write_text(content)
    with pytest.raises(ValueError, match=rf"fewer\.json.* {key}"):
        fewer.load(folder)


def test_a_newer_version_of_the_same_schema_loads_with_a_warning(folder):
    _edit(folder, version="99.0.0")
    with pytest.warns(UserWarning, match=rf"by fewer 99\.0\.0; this is {fewer.__version__}"):
        loaded = fewer.load(folder)
    assert fewer.attachment(loaded).method == LTP(final_threshold=0.2)


@pytest.mark.parametrize("version", ["0.0.1", fewer.__version__, "0.0.9rc1"])
def test_an_older_version_of_the_same_schema_loads_silently(folder, version):
    _edit(folder, version=version)
    assert fewer.attachment(fewer.load(folder)).method == LTP(final_threshold=0.2)


def test_a_lost_side_file_of_an_old_folder_is_noticed_by_the_tensors_it_described(folder):
    (folder / SIDE_FILE).unlink()
    content = json.loads((folder / "config.json").read_text())
    assert content.pop(MARK) == {"schema": SCHEMA, "method": "ltp"}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"model\.safetensors must .*got \{'threshold': \(2,\)\}"):
        fewer.load(folder)


def test_lost_thresholds_are_noticed(folder):
    _reweigh(folder, lambda held: {k: v for k, v in held.items() if "threshold" not in k})
    with pytest.raises(ValueError, match=r"model\.safetensors must .*'threshold'.*got \{\}"):
        fewer.load(folder)


def test_thresholds_of_another_depth_are_noticed(folder):
    _reweigh(folder, lambda held: held | {"bert.fewer.policy.threshold": torch.ones(5)})
    with pytest.raises(ValueError, match=r"threshold': \(2,\)\}.*got \{'threshold': \(5,\)\}"):
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
    with pytest.raises(ValueError, match=r"config\.json must name .*got 'BertForTelepathy'"):
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
    with pytest.raises(FileNotFoundError, match=r"not a folder.* fewer\.save"):
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


@pytest.mark.parametrize("method", [LTP(final_threshold=0.2), fewer.methods.attention.Longformer()])
def test_a_lost_side_file_is_named(tmp_path, method):
    fewer.save(fewer.attach(tiny(), method), tmp_path)
    (tmp_path / SIDE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=SIDE_FILE):
        fewer.load(tmp_path)


def test_the_mark_of_a_side_file_stays_in_the_folder(folder):
    plain = BertForSequenceClassification.from_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).fewer["method"] == "ltp"
    assert "fewer" not in fewer.load(folder).config.to_dict()
    detached = fewer.detach(fewer.attach(plain))
    detached.save_pretrained(folder / "again")
    assert fewer.attachment(fewer.load(folder / "again")).method == fewer.Dense()
    assert "fewer" not in json.loads((folder / "again" / "config.json").read_text())


@pytest.mark.parametrize("name", ["config.json", SIDE_FILE, WEIGHTS])
def test_one_flipped_bit_is_found(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-20 if name == WEIGHTS else content.index(b"1e-12" if "c" in name else b"0.2")] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        fewer.load(folder)


def test_a_folder_saved_again_over_another_loads(folder):
    other = fewer.attach(tiny(seed=1), LTP(final_threshold=0.3))
    other.save_pretrained(folder)  # without a manifest: the older one is gone
    assert fewer.attachment(fewer.load(folder)).method == LTP(final_threshold=0.3)
    fewer.save(other, folder)
    assert (folder / MANIFEST).exists()
    assert fewer.attachment(fewer.load(folder)).method == LTP(final_threshold=0.3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_of_a_method_must_be_finite(folder, value):
    wrong = torch.tensor([0.1, value])
    _reweigh(folder, lambda held: held | {"bert.fewer.policy.threshold": wrong})
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: threshold"):
        fewer.load(folder)


def test_tensors_of_a_method_must_be_of_the_right_type(folder):
    wrong = torch.tensor([0, 1])
    _reweigh(folder, lambda held: held | {"bert.fewer.policy.threshold": wrong})
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: threshold"):
        fewer.load(folder)


def test_a_model_in_half_precision_keeps_its_method(tmp_path):
    fewer.save(fewer.attach(tiny(), LTP(final_threshold=0.2)).bfloat16(), tmp_path)
    assert fewer.attachment(fewer.load(tmp_path)).policy.threshold.dtype == torch.float32


def test_weights_must_be_finite(folder):
    def poison(held):
        held["classifier.weight"][0, 0] = float("nan")
        return held

    _reweigh(folder, poison)
    with pytest.raises(ValueError, match=rf"{WEIGHTS} .*classifier.weight"):
        fewer.load(folder)


def test_weights_of_another_shape_are_named(folder):
    _reweigh(folder, lambda held: held | {"classifier.weight": torch.ones(4, 16)})
    with pytest.raises(
        ValueError, match=rf"{WEIGHTS} .*classifier.weight must have .*got \(4, 16\)"
    ):
        fewer.load(folder)


def test_weights_that_nothing_uses_are_told(folder, caplog):
    _reweigh(folder, lambda held: held | {"head.weight": torch.ones(4, 16)})
    (folder / MANIFEST).unlink()
    with caplog.at_level("WARNING"):
        fewer.load(folder)
    assert "head.weight" in caplog.text
    assert "threshold" not in caplog.text


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_in_pickles_alone_load_to_the_same_answers(folder, sharded):
    batch, held = ragged(tiny()), load_file(folder / WEIGHTS)
    wanted = fewer.load(folder)(**batch).logits
    (folder / WEIGHTS).unlink()
    (folder / MANIFEST).unlink()
    names = ["pytorch_model.bin"]
    if sharded:
        names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        where = {key: names[number % 2] for number, key in enumerate(held)}
        index = {"metadata": {}, "weight_map": where}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for number, name in enumerate(names):
        keys = list(held)[number :: len(names)]
        torch.save({key: held[key] for key in keys}, folder / name)
    loaded = fewer.load(folder)
    assert torch.equal(loaded(**batch).logits, wanted)
    assert fewer.attachment(loaded).method == LTP(final_threshold=0.2)


class _Marking:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_code_in_a_pickle_is_refused(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    torch.save({"bert.x": _Marking(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        fewer.load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 4, 100, 5000])
def test_truncated_pickles_are_named(folder, size):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        fewer.load(folder)


def test_a_folder_of_a_run_tells_where_its_model_is(folder):
    run = folder / "run"
    run.mkdir()
    (run / "fit.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="resume"):
        fewer.load(run)
    fewer.load(folder).save_pretrained(run / "model")
    with pytest.raises(FileNotFoundError, match=r"run.model"):
        fewer.load(run)


@pytest.mark.parametrize("name", ["nowhere", "runs/nowhere"])
def test_a_name_that_the_hub_cannot_give_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"{name} must be a folder or a hub id"):
        fewer.load(name)


def test_a_full_disk_is_told_by_name_and_nothing_is_taken_for_whole(folder):
    other = fewer.attach(tiny(seed=1), LTP(final_threshold=0.3))
    with files_of_at_most(4000), pytest.raises(OSError, match=str(folder)):
        fewer.save(other, folder)
    with pytest.raises(ValueError, match=str(folder)):  # the new side file beside old weights
        fewer.load(folder)
    fewer.save(other, folder)
    assert fewer.attachment(fewer.load(folder)).method == LTP(final_threshold=0.3)
