import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fewer
from fewer._files.locking import lock_folder
from fewer.core.stack import Stack
from fewer.methods.attention import BigBird, DeFormer
from fewer.methods.pruning import BlockSkim
from fewer.passages import PassageIndex, building
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
    expected = index_of(model, tmp_path / "whole")
    read = building.read_lower
    passes = []

    def killed(*arguments):
        passes.append(arguments)
        if len(passes) > 4:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(building, "read_lower", killed)
    with pytest.raises(KeyboardInterrupt):
        index_of(model, tmp_path / "own")
    with pytest.raises(FileNotFoundError, match="its index was not finished"):
        PassageIndex.open(tmp_path / "own", model, tokenizer_of())
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "own").glob("*.safetensors")}
    assert 0 < len(times) < len(expected.store.shards)
    last = max(times)
    last.write_bytes(last.read_bytes()[:-5])

    monkeypatch.setattr(building, "read_lower", read)
    index_of(model, tmp_path / "own")
    files = [sorted(folder.iterdir()) for folder in (tmp_path / "own", tmp_path / "whole")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert {file for file, time in times.items() if file.stat().st_mtime_ns == time} == (
        set(times) - {last}
    )


def test_shards_of_other_passages_are_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = model_of()
    index_of(model, tmp_path, passages={"twelve": "w1 w2"})
    (tmp_path / "passages.json").unlink()
    index_of(model, tmp_path)
    index = PassageIndex.open(tmp_path, model, tokenizer_of())
    assert index.store.text("twelve") == PASSAGES["twelve"]


def test_a_finished_index_is_not_overwritten(tmp_path):
    index_of(model_of(), tmp_path)
    with pytest.raises(ValueError, match="must hold no index"):
        index_of(model_of(), tmp_path)


@pytest.mark.parametrize(
    "opening",
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
def test_an_index_of_another_model_is_refused(opening, tmp_path):
    index_of(model_of(), tmp_path)
    with pytest.raises(ValueError, match="index of another model, method or tokenizer"):
        PassageIndex.open(tmp_path, *opening())


def _edited(prefix):
    model = model_of()
    with torch.no_grad():
        next(index for name, index in model.named_parameters() if name.startswith(prefix))[
            0, 0
        ] += 1
    return model


def test_an_index_opens_after_changes_that_do_not_change_the_states(tmp_path):
    model, tokenizer = model_of(), tokenizer_of()
    index = index_of(model, tmp_path / "index")
    fewer.save(model, tmp_path / "model")
    tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=8)  # its backend notes it

    loaded = fewer.load(tmp_path / "model")  # optimized for this processor
    opened = PassageIndex.open(tmp_path / "index", loaded, tokenizer)
    same(opened.ask(QUESTIONS, list(PASSAGES)), index.ask(QUESTIONS, list(PASSAGES)), 1e-3)
    for prefix in ("bert.encoder.layer.2.", "qa_outputs"):
        PassageIndex.open(tmp_path / "index", _edited(prefix), tokenizer)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda folder: (folder / "passages-00000.safetensors").unlink(), "is missing"),
        (lambda folder: _cut(folder / "passages-00000.safetensors"), "must have .* bytes"),
        (lambda folder: _cut(folder / "passages.json"), "JSONDecodeError"),
        (lambda folder: _changed(folder, schema=1), r"schema must be 2 .*got schema 1"),
        (lambda folder: _changed(folder, places=[]), "cannot be read"),
        (lambda folder: _changed(folder, checksum=""), r"passages\.json .*checksum"),
        (lambda folder: _changed(folder, more=1), "checksum"),
    ],
    ids=["missing", "cut", "manifest", "schema", "places", "checksum", "key"],
)
def test_a_broken_folder_is_refused(broken, message, tmp_path):
    model = model_of()
    index_of(model, tmp_path)
    broken(tmp_path)
    with pytest.raises(ValueError, match=message):
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
    index = PassageIndex.open(tmp_path, model, tokenizer_of())
    with pytest.raises(ValueError, match="cannot be read"):
        index.ask(["w1"], ["one"])


def _flipped(path, place):
    """Flip a bit of a file; give it as it was."""
    content = path.read_bytes()
    byte, bit = divmod(place, 8)
    damaged = bytearray(content)
    damaged[byte] ^= 1 << bit
    path.write_bytes(damaged)
    return content


def _places(path, count):
    """Draw bits of a file, those of its header among them."""
    draw = random.Random(path.name)
    size = 8 * path.stat().st_size
    return [*range(0, 120, 17), *(draw.randrange(size) for _ in range(count))]


def _open_and_read(folder, model, tokenizer):
    store = PassageIndex.open(folder, model, tokenizer).store
    return [(store.windows(name), store.text(name)) for name in PASSAGES]


def test_a_flipped_bit_is_found_when_its_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model, tokenizer = model_of(), tokenizer_of()
    index_of(model, tmp_path)
    for path in [path for path in tmp_path.iterdir() if path.stat().st_size]:
        for place in _places(path, 12):
            content = _flipped(path, place)
            with pytest.raises(ValueError, match=path.name):
                _open_and_read(tmp_path, model, tokenizer)
            path.write_bytes(content)
    PassageIndex.open(tmp_path, model, tokenizer).ask(QUESTIONS, list(PASSAGES))


def test_a_shard_damaged_before_the_index_was_finished_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = model_of()
    index_of(model, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    path = tmp_path / "passages-00001.safetensors"
    for place in _places(path, 8):
        _flipped(path, place)
        (tmp_path / "passages.json").unlink()
        index_of(model, tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_shards_of_an_interrupted_run_on_other_passages_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = model_of()
    index_of(model, tmp_path / "alone", passages={"one": "w7"})
    index_of(model, tmp_path / "after")
    (tmp_path / "after" / "passages.json").unlink()
    (tmp_path / "after" / "passages-00003.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "after" / ".tmppj53TI").write_bytes(b"")  # as safetensors leaves it
    index_of(model, tmp_path / "after", passages={"one": "w7"})
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("alone", "after")]
    assert names[0] == names[1]


def test_one_of_several_writers_wins_and_the_errors_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model, folder = model_of(), tmp_path / "shared"
    expected = index_of(model, tmp_path / "alone").ask(QUESTIONS, list(PASSAGES))
    with lock_folder(folder), pytest.raises(ValueError, match="shared must have one writer"):
        index_of(model, folder)

    barrier, errors = threading.Barrier(6), []

    def write(number):
        barrier.wait()
        try:
            index_of(model, folder)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 5
    assert all(str(folder) in error for error in errors)
    same(PassageIndex.open(folder, model, tokenizer_of()).ask(QUESTIONS, list(PASSAGES)), expected)
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("alone", "shared")
    ]
    assert files[0] == files[1]


def test_an_index_that_is_killed_goes_on_to_the_same_bytes(tmp_path):
    """Processes are killed in a process of their own, where no thread of torch runs yet."""
    words = [sys.executable, "-m", "tests.unit.passages.interrupted", str(tmp_path), "1", "4", "7"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"killed": 3, "refused": 1}
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("unbroken", "killed")
    ]
    assert len(files[0]) > 20
    assert files[0] == files[1]


def test_a_copied_folder_is_the_same_index(tmp_path):
    model = model_of()
    expected = index_of(model, tmp_path / "made").ask(QUESTIONS, list(PASSAGES))
    shutil.copytree(tmp_path / "made", tmp_path / "copied")
    index = PassageIndex.open(tmp_path / "copied", model, tokenizer_of())
    assert index.ask(QUESTIONS, list(PASSAGES)) == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: model_of(method=fewer.Dense()),
            "method must encode question and passage separately",
        ),
        (
            lambda: fewer.attach(tiny(layers=LAYERS), DeFormer()),
            "model must be .*got a BertForSequenceClassification",
        ),
        (lambda: _skimming(), "method must prune the same tokens"),
        (
            lambda: model_of(
                method=Stack(
                    (DeFormer(lower=3), fewer.LTP(final_threshold=0.2, reference_length=16))
                )
            ),
            "method must prune the same tokens",
        ),
        (
            lambda: model_of(method=Stack((DeFormer(lower=3), fewer.LTP(restore=True)))),
            "method must not let pruned tokens answer",
        ),
        (
            lambda: model_of(method=Stack((DeFormer(lower=2), fewer.EarlyExit()))),
            "method must have no early exits",
        ),
        (
            lambda: model_of(method=Stack((DeFormer(lower=2), BigBird(block_size=4)))),
            "layer 0 must .*got blocks of 4 columns",
        ),
        (lambda: model_of("big-bird"), "layer 0 must .*got blocks of 2 columns"),
    ],
    ids=["dense", "classifier", "blocks", "lengths", "restored", "exits", "big-bird", "own blocks"],
)
def test_a_model_whose_passages_depend_on_the_question_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        index_of(model())


def _skimming():
    model = model_of(method=Stack((DeFormer(lower=3), BlockSkim(block=4))))
    torch.manual_seed(1)
    for parameter in fewer.attachment(model).policy.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return fewer.set_threshold(model, threshold=0.5)


def test_bad_input_is_refused():
    model = model_of()
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, int8; got 'bf16'"):
        index_of(model, precision="bf16")
    with pytest.raises(ValueError, match="no passages"):
        index_of(model, passages={})
    with pytest.raises(ValueError, match="ids must be unique; got 'a' twice"):
        index_of(model, passages=[("a", "w1"), ("b", "w2"), ("a", "w3")])
    with pytest.raises(TypeError, match=r"passage 'a', row 0 .*got 5"):
        index_of(model, passages={"a": 5})
    with pytest.raises(TypeError, match=r"ids, row 0 .*got 5"):
        index_of(model, passages={5: "a"})
    with pytest.raises(ValueError, match="at most 40 tokens"):
        index_of(model, max_length=41)
    index = index_of(model)
    with pytest.raises(
        ValueError, match=r"no passage 'twelv' in the index \(did you mean 'twelve'"
    ):
        index.ask(["w1"], ["twelv"])
    with pytest.raises(ValueError, match=r"ids must be .*got 2 questions and 1 ids"):
        index.ask(["w1", "w2"], ["one"])
    with pytest.raises(TypeError, match="got one string"):
        index.ask("w1", ["one"])
    with pytest.raises(TypeError, match=r"questions, row 1 .*got None"):
        index.ask(["w1", None], ["one", "one"])
