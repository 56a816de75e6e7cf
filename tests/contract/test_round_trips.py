"""Law 7. Round trips: saved, loaded, copied and pickled models are the same model."""

import copy
import json
import pickle

import pytest
import torch
import transformers

import fewer
from fewer import LTP, Dense
from fewer._files.manifest import MANIFEST
from fewer.hf.side_file import MARK, SIDE_FILE
from tests.contract.policies import Drop
from tests.contract.table import BACKBONES, TASKS, every_backbone, read
from tests.rounding import assert_same
from tests.tiny import FAMILIES, SHARING, logits, ragged, tiny

METHOD = LTP(final_threshold=0.2, reference_length=7)


def _learned(backbone="bert", task=TASKS[0], **options):
    """Attach LTP with thresholds that are not where they started."""
    model = fewer.attach(tiny(backbone, task), METHOD, **options)
    with torch.no_grad():
        threshold = fewer.attachment(model).policy.threshold
        threshold.mul_(torch.linspace(0.5, 1.5, len(threshold)))
    return model


def _same(model, other):
    """Assert that two models give the same answers, having read the same tokens."""
    batch = ragged(model)
    (logits, trace), (others, other_trace) = read(model, batch), read(other, batch)
    assert torch.equal(logits, others)
    assert torch.equal(trace.layers_read, other_trace.layers_read)
    assert (trace.layers_read[:, 1:] < len(trace.layers)).any()


@every_backbone
@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_model_is_the_saved_one(backbone, task, tmp_path):
    model = _learned(backbone, task, kernel="reference", protect=(7, 9))
    fewer.save(model, tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).settings == fewer.attachment(model).settings
    assert type(loaded).__name__ == FAMILIES[backbone].prefix + "For" + task
    assert not loaded.training
    _same(loaded, model)


@pytest.mark.parametrize(
    ("backbone", "task"),
    [
        pytest.param(
            name, task, marks=pytest.mark.slow if name in SHARING and task != TASKS[0] else ()
        )
        for name in BACKBONES
        for task in TASKS
    ],
)
def test_plain_transformers_loads_the_saved_folder(backbone, task, tmp_path):
    model = _learned(backbone, task)
    fewer.save(model, tmp_path)
    plain = getattr(transformers, "AutoModelFor" + task).from_pretrained(tmp_path).eval()
    batch = ragged(model)
    with torch.no_grad():
        found, wanted = (logits(one(**batch)) for one in (plain, fewer.detach(model)))
    assert torch.equal(found, wanted)


def test_the_saved_folder_is_an_ordinary_one_and_holds_no_pickle(tmp_path):
    model = _learned()
    before = tiny().config.to_dict()
    fewer.save(model, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        SIDE_FILE,
        MANIFEST,
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config.pop(MARK) == {"schema": 1, "method": "ltp"}
    assert set(config) - set(before) <= {"architectures", "dtype", "transformers_version"}


def test_saving_twice_and_saving_a_loaded_model_writes_the_same(tmp_path):
    model = _learned(protect=(5,))
    for folder in ("once", "twice"):
        fewer.save(model, tmp_path / folder)
    fewer.save(fewer.load(tmp_path / "once", precision=None), tmp_path / "again")
    for name in (SIDE_FILE, "model.safetensors"):
        contents = [(tmp_path / f / name).read_bytes() for f in ("once", "twice", "again")]
        assert contents[0] == contents[1] == contents[2]


@every_backbone
def test_a_bare_encoder_makes_the_round_trip(backbone, tmp_path):
    model = fewer.attach(tiny(backbone, "Model"), kernel="reference", protect=(7, 9))
    fewer.save(model, tmp_path)
    loaded, batch = fewer.load(tmp_path, precision=None), ragged(model)
    with torch.no_grad():
        wanted = model(**batch).last_hidden_state
        assert torch.equal(loaded(**batch).last_hidden_state, wanted)
        copied = pickle.loads(pickle.dumps(model))
        assert torch.equal(copied(**batch).last_hidden_state, wanted)
    assert fewer.attachment(loaded).settings == fewer.attachment(model).settings


@every_backbone
def test_copies_and_pickles_are_the_same_model(backbone, tmp_path):
    model = _learned(backbone)
    _same(copy.deepcopy(model), model)
    _same(pickle.loads(pickle.dumps(model)), model)
    torch.save(model, tmp_path / "whole.pt")
    _same(torch.load(tmp_path / "whole.pt", weights_only=False), model)


@every_backbone
def test_a_copy_reads_its_own_weights(backbone):
    model = _learned(backbone)
    batch = ragged(model)
    wanted = read(model, batch)[0]
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in duplicate.base_model.parameters():
            parameter.zero_()
    assert not torch.allclose(read(duplicate, batch)[0], wanted, atol=1e-2)
    assert torch.equal(read(model, batch)[0], wanted)


@every_backbone
def test_a_copy_has_its_own_thresholds(backbone):
    model = _learned(backbone)
    batch = ragged(model)
    wanted = read(model, batch)[1].layers_read
    duplicate = copy.deepcopy(model)
    with torch.no_grad():
        fewer.attachment(duplicate).policy.threshold.fill_(0.99)
    assert torch.equal(read(model, batch)[1].layers_read, wanted)
    assert read(duplicate, batch)[1].layers_read.sum() < wanted.sum()


@every_backbone
def test_a_copy_of_a_pickle_still_saves_and_detaches(backbone, tmp_path):
    copied = copy.deepcopy(pickle.loads(pickle.dumps(_learned(backbone))))
    fewer.save(copied, tmp_path)
    _same(fewer.load(tmp_path, precision=None), copied)
    assert type(fewer.detach(copied)) is type(tiny(backbone))


def test_a_state_dict_carries_the_thresholds():
    model, other = _learned(), fewer.attach(tiny(seed=1), METHOD)
    added = set(model.state_dict()) - set(tiny().state_dict())
    assert added == {"bert.fewer.policy.threshold"}
    other.load_state_dict(model.state_dict())
    _same(other, model)


@every_backbone
def test_shards_are_put_together(backbone, tmp_path):
    model = _learned(backbone)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    _same(fewer.load(tmp_path, precision=None), model)


def test_a_plain_folder_is_loaded_with_no_method(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    loaded = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(loaded).method == Dense()
    assert_same(loaded(**ragged(model)).logits, model(**ragged(model)).logits)


def test_settings_of_from_pretrained_are_passed_on(tmp_path):
    fewer.save(_learned(), tmp_path)
    loaded = fewer.load(tmp_path, precision=None, dtype=torch.bfloat16)
    assert loaded.classifier.weight.dtype == torch.bfloat16
    assert fewer.attachment(loaded).policy.threshold.dtype == torch.float32


def test_a_method_outside_the_table_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"method must be one of berxit.*got a Drop"):
        fewer.save(fewer.attach(tiny(), Drop()), tmp_path)
