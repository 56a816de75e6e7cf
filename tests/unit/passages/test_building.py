import json
import shutil

import pytest
import torch

import fewer
from fewer.attention import BigBird, DeFormer
from fewer.core.stack import Stack
from fewer.passages import PassageIndex, building
from fewer.pruning import BlockSkim
from tests.tiny import tiny
from tests.unit.passages.made import (
    LAYERS,
    METHODS,
    PASSAGES,
    QUESTIONS,
    index_of,
    model_of,
    same,
    tokenizer_of,
)


def test_an_index_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = model_of()
    wanted = index_of(model, tmp_path / "whole")
    read = building.read_lower
    passes = []

    def killed(*given):
        passes.append(given)
        if len(passes) > 4:
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(building, "read_lower", killed)
    with pytest.raises(KeyboardInterrupt):
        index_of(model, tmp_path / "own")
    with pytest.raises(FileNotFoundError, match="its index was not finished"):
        PassageIndex.open(tmp_path / "own", model, tokenizer_of())
    there = {file: file.stat().st_mtime_ns for file in (tmp_path / "own").glob("*.safetensors")}
    assert 0 < len(there) < len(wanted.store.shards)
    last = max(there)
    last.write_bytes(last.read_bytes()[:-5])

    monkeypatch.setattr(building, "read_lower", read)
    index_of(model, tmp_path / "own")
    files = [sorted(folder.iterdir()) for folder in (tmp_path / "own", tmp_path / "whole")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert {file for file, time in there.items() if file.stat().st_mtime_ns == time} == (
        set(there) - {last}
    )


def test_shards_of_other_passages_are_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = model_of()
    index_of(model, tmp_path, passages={"twelve": "w1 w2"})
    (tmp_path / "passages.json").unlink()
    index_of(model, tmp_path)
    own = PassageIndex.open(tmp_path, model, tokenizer_of())
    assert own.store.text("twelve") == PASSAGES["twelve"]


def test_a_finished_index_is_not_overwritten(tmp_path):
    index_of(model_of(), tmp_path)
    with pytest.raises(ValueError, match="holds an index already"):
        index_of(model_of(), tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        lambda: (model_of(seed=1), tokenizer_of()),
        lambda: (model_of(method=METHODS["three"]), tokenizer_of()),
        lambda: (model_of(method=DeFormer(lower=2, epochs=1)), tokenizer_of()),
        lambda: (model_of("electra"), tokenizer_of()),
        lambda: (model_of(), tokenizer_of("roberta")),
        lambda: (_edited("bert.encoder.layer.1."), tokenizer_of()),
        lambda: (_edited("bert.embeddings.word"), tokenizer_of()),
    ],
    ids=["weights", "lower", "method", "family", "tokenizer", "layer", "embeddings"],
)
def test_an_index_of_another_model_is_refused(other, tmp_path):
    index_of(model_of(), tmp_path)
    with pytest.raises(ValueError, match="made with another model, method or tokenizer"):
        PassageIndex.open(tmp_path, *other())


def _edited(prefix):
    model = model_of()
    with torch.no_grad():
        next(own for name, own in model.named_parameters() if name.startswith(prefix))[0, 0] += 1
    return model


def test_what_does_not_change_the_states_may_change(tmp_path):
    model, tokenizer = model_of(), tokenizer_of()
    own = index_of(model, tmp_path / "index")
    fewer.save(model, tmp_path / "model")
    tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=8)  # its backend notes it

    loaded = fewer.load(tmp_path / "model")  # optimized for this processor
    opened = PassageIndex.open(tmp_path / "index", loaded, tokenizer)
    same(opened.ask(QUESTIONS, list(PASSAGES)), own.ask(QUESTIONS, list(PASSAGES)), 1e-3)
    for prefix in ("bert.encoder.layer.2.", "qa_outputs"):
        PassageIndex.open(tmp_path / "index", _edited(prefix), tokenizer)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda folder: (folder / "passages-00000.safetensors").unlink(), "is missing, wanted"),
        (lambda folder: _cut(folder / "passages-00000.safetensors"), "bytes, wanted"),
        (lambda folder: _cut(folder / "passages.json"), "JSONDecodeError"),
        (lambda folder: _changed(folder, schema=2), r"schema 2.* reads schema 1"),
        (lambda folder: _changed(folder, places=[]), "cannot be read"),
        (lambda folder: _changed(folder, places={"a": {}}), "KeyError"),
        (lambda folder: _changed(folder, more=1), "more"),
    ],
    ids=["missing", "cut", "manifest", "schema", "places", "place", "key"],
)
def test_a_broken_folder_is_refused(broken, said, tmp_path):
    model = model_of()
    index_of(model, tmp_path)
    broken(tmp_path)
    with pytest.raises(ValueError, match=said):
        PassageIndex.open(tmp_path, model, tokenizer_of())


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def _changed(folder, **changes):
    path = folder / "passages.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="it holds no index"):
        PassageIndex.open(tmp_path, model_of(), tokenizer_of())


def test_a_shard_that_is_not_one_is_refused_when_it_is_read(tmp_path):
    model = model_of()
    index_of(model, tmp_path)
    shard = tmp_path / "passages-00000.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    own = PassageIndex.open(tmp_path, model, tokenizer_of())
    with pytest.raises(ValueError, match="cannot be read"):
        own.ask(["w1"], ["one"])


def test_a_copied_folder_is_the_same_index(tmp_path):
    model = model_of()
    wanted = index_of(model, tmp_path / "made").ask(QUESTIONS, list(PASSAGES))
    shutil.copytree(tmp_path / "made", tmp_path / "copied")
    own = PassageIndex.open(tmp_path / "copied", model, tokenizer_of())
    assert own.ask(QUESTIONS, list(PASSAGES)) == wanted


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: model_of(method=fewer.Dense()), "together from the first layer on"),
        (
            lambda: fewer.attach(tiny(layers=LAYERS), DeFormer()),
            "BertForSequenceClassification does not find answers",
        ),
        (lambda: _skimming(), "other tokens of a passage when the question is another"),
        (
            lambda: model_of(
                method=Stack(
                    (DeFormer(lower=3), fewer.LTP(final_threshold=0.2, reference_length=16))
                )
            ),
            "other tokens of a passage when the question is another",
        ),
        (
            lambda: model_of(method=Stack((DeFormer(lower=2), fewer.EarlyExit()))),
            "may answer before the passage is read",
        ),
        (
            lambda: model_of(method=Stack((DeFormer(lower=2), BigBird(block_size=4)))),
            "layer 0 reads by blocks of 4 columns",
        ),
        (lambda: model_of("big-bird"), "layer 0 reads by blocks of 2 columns"),
    ],
    ids=["dense", "classifier", "blocks", "lengths", "exits", "big-bird", "own blocks"],
)
def test_a_model_whose_passages_depend_on_the_question_is_refused(model, said):
    with pytest.raises(ValueError, match=said):
        index_of(model())


def _skimming():
    model = model_of(method=Stack((DeFormer(lower=3), BlockSkim(block=4))))
    torch.manual_seed(1)
    for parameter in fewer.attachment(model).policy.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return fewer.adjust(model, threshold=0.5)


def test_bad_input_is_refused():
    model = model_of()
    with pytest.raises(ValueError, match="precision is 'bf16', wanted one of fp32, fp16, int8"):
        index_of(model, precision="bf16")
    with pytest.raises(ValueError, match="no passages"):
        index_of(model, passages={})
    with pytest.raises(ValueError, match="the id 'a' stands twice"):
        index_of(model, passages=[("a", "w1"), ("b", "w2"), ("a", "w3")])
    with pytest.raises(TypeError, match=r"passage 'a', row 0 .*got 5"):
        index_of(model, passages={"a": 5})
    with pytest.raises(TypeError, match=r"ids, row 0 .*got 5"):
        index_of(model, passages={5: "a"})
    with pytest.raises(ValueError, match="at most 40 tokens"):
        index_of(model, max_length=41)
    own = index_of(model)
    with pytest.raises(
        ValueError, match=r"no passage 'twelv' in the index \(did you mean 'twelve'"
    ):
        own.ask(["w1"], ["twelv"])
    with pytest.raises(ValueError, match="as many questions as ids are wanted, got 2 and 1"):
        own.ask(["w1", "w2"], ["one"])
    with pytest.raises(TypeError, match="got one string"):
        own.ask("w1", ["one"])
    with pytest.raises(TypeError, match=r"questions, row 1 .*got None"):
        own.ask(["w1", None], ["one", "one"])
