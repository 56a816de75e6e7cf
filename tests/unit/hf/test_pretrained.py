import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import fewer
from fewer.cli.common import quiet
from fewer.hf.pretrained import (
    TOKENIZER_FILES,
    load_config,
    load_pretrained,
    load_tokenizer,
    local_folder,
    weight_files,
)
from fewer.recipe import labels_of
from tests.tiny import tiny, word_tokenizer

CODE = """
from pathlib import Path

Path({marker!r}).touch()
from transformers import BertConfig as MyConfig, BertForSequenceClassification as MyModel
from transformers import PreTrainedTokenizerFast as MyTokenizer
"""


@pytest.fixture
def folder(tmp_path):
    fewer.save(fewer.attach(tiny(), fewer.LTP(final_threshold=0.2)), tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def _edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def _loaders(folder):
    return {
        "load": lambda: fewer.load(folder),
        "load_config": lambda: load_config(folder),
        "load_tokenizer": lambda: load_tokenizer(folder),
        "labels_of": lambda: labels_of(str(folder)),
    }


@pytest.mark.parametrize("loader", ["load", "load_config", "load_tokenizer", "labels_of"])
@pytest.mark.parametrize("model_type", ["bert", "mine"])
def test_code_of_a_folder_never_runs_even_if_a_user_confirms(
    folder, monkeypatch, loader, model_type
):
    marker = folder / "ran"
    (folder / "mine.py").write_text(CODE.format(marker=str(marker)))
    names = {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}
    _edit(folder / "config.json", auto_map=names, model_type=model_type)
    tokenizer = {"AutoTokenizer": ["mine.MyTokenizer", None]}
    _edit(folder / "tokenizer_config.json", auto_map=tokenizer, tokenizer_class="MyTokenizer")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=rf"{folder}.*auto_map"):
        _loaders(folder)[loader]()
    assert not marker.exists()


def test_code_of_a_tokenizer_alone_never_runs(folder, monkeypatch):
    (folder / "mine.py").write_text(CODE.format(marker=str(folder / "ran")))
    tokenizer = {"AutoTokenizer": ["mine.MyTokenizer", None]}
    _edit(folder / "tokenizer_config.json", auto_map=tokenizer, tokenizer_class="MyTokenizer")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="tokenizer_config"):
        load_tokenizer(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "value",
    ["kernels-community/flash-attn", "org/repo@main:attend", {"text_config": "org/repo"}],
)
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_a_kernel_of_the_hub_is_refused(folder, key, value):
    _edit(folder / "config.json", **{key: value})
    with pytest.raises(ValueError, match=rf"config.json: {key}"):
        fewer.load(folder)


def test_trust_remote_code_is_refused(folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        fewer.load(folder, trust_remote_code=True)


def test_a_folder_of_adapters_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ValueError, match="adapter_config"):
        local_folder(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_labels", 10**9),
        ("vocab_size", 10**30),
        ("num_hidden_layers", "3"),
        ("hidden_act", "telepathy"),
        ("pad_token_id", 10**6),
        ("hidden_size", [16]),
        ("id2label", [1]),
        ("model_type", "telepathic"),
        ("architectures", {"a": 1}),
        ("architectures", ["Trainer"]),
        ("architectures", [None]),
    ],
)
def test_a_config_that_makes_no_model_is_named(folder, key, value):
    _edit(folder / "config.json", **{key: value})
    with pytest.raises(ValueError, match=r"config\.json"):
        fewer.load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"a":' * 100_000, "\udcff"])
def test_broken_json_is_named(folder, name, content):
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=name):
        load_tokenizer(folder)
    if name == "config.json":
        with pytest.raises(ValueError, match=name):
            load_config(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "WordLevel"}},
        {"model": None},
        {"added_tokens": 5},
        {"version": "9.0"},
        {"pre_tokenizer": {"type": "Telepathy"}},
    ],
)
def test_a_tokenizer_that_is_not_understood_is_named(folder, change):
    _edit(folder / "tokenizer.json", **change)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(folder)


def test_a_tokenizer_is_loaded_as_it_was_saved(folder):
    text = "w3 w7 unknown"
    assert load_tokenizer(folder)(text)["input_ids"] == word_tokenizer()(text)["input_ids"]


@pytest.mark.parametrize(
    "weight_map", [None, [], {"a": 5}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}]
)
def test_an_index_that_names_no_files_beside_it_is_refused(folder, weight_map):
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
        weight_files(folder)


def test_initialised_weights_are_logged_even_when_transformers_is_silenced(folder, caplog):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(
        {key: tensors[key] for key in tensors if "classifier" not in key}, file, {"format": "pt"}
    )
    before = {name: logging.getLogger(name).level for name in ("transformers", "fewer")}
    quiet()
    try:
        with caplog.at_level(logging.WARNING):
            _, report = load_pretrained(AutoModelForSequenceClassification, folder, num_labels=3)
        log = caplog.text
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert "classifier.weight" in log
    assert "threshold" not in log
    assert "MISSING" in caplog.text  # where transformers itself loads


def test_tied_weights_are_not_missing(tmp_path):
    model = tiny(task="MaskedLM")
    model.save_pretrained(tmp_path)
    loaded, report = load_pretrained(type(model), tmp_path)
    assert not report["missing_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_every_file_of_a_tokenizer_is_checked_if_it_was_sealed(folder):
    from fewer._files.manifest import write_manifest

    write_manifest(folder)
    load_tokenizer(folder)
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            content = (folder / name).read_text()
            (folder / name).write_text(content + " ")
            with pytest.raises(ValueError, match=name):
                load_tokenizer(folder)
            (folder / name).write_text(content)
