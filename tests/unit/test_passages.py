import json
import shutil
from itertools import pairwise

import pytest
import torch
from tokenizers import processors

import fewer
from fewer.attention import DeFormer
from fewer.core.stack import Stack
from fewer.passages import Answer, PassageIndex, building, index
from fewer.pruning import BlockSkim
from fewer.tasks import TruncationWarning
from tests.tiny import tiny, word_tokenizer

LAYERS = 4
QUESTIONS = ["w1 w2", "w9", "", "w3 w4 w5 w6", "w1", "w48 w47 w46"]
PASSAGES = {
    "one": "w7",
    "twelve": " ".join(f"w{n}" for n in range(10, 22)),
    "empty": "",
    "windows": " ".join(f"w{n * 7 % 50}" for n in range(60)),
    "odd": "\0 w3 lone \ud83d  w8 ",
    "five": "w30 w31 w32 w33 w34",
}
METHODS = {
    "apart": DeFormer(lower=2),
    "three": DeFormer(lower=3),
    "pruned": Stack((DeFormer(lower=3), fewer.LTP(final_threshold=0.2))),
}


def _model(family="bert", method=METHODS["apart"], **settings):
    model = tiny(family, "QuestionAnswering", num_labels=2, layers=LAYERS, **settings)
    return fewer.attach(model, method)


def _tokenizer(family="bert"):
    tokenizer = word_tokenizer()
    if family == "roberta":
        tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
            ("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False
        )
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def _index(model, folder=None, tokenizer=None, passages=PASSAGES, **options):
    return index(model, tokenizer or _tokenizer(), passages, folder, progress=False, **options)


def _same(found, wanted, tolerance=1e-4):
    assert [(one.passage, one.text, one.start, one.end) for one in found] == [
        (one.passage, one.text, one.start, one.end) for one in wanted
    ]
    scores = [[one.score for one in answers] for answers in (found, wanted)]
    assert scores[0] == pytest.approx(scores[1], abs=tolerance)


@pytest.mark.parametrize("budget", [1, 60, 8192])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "albert"])
def test_a_kept_passage_is_answered_from_as_if_it_were_read(family, method, budget):
    model = _model(family, METHODS[method])
    own = _index(model, None, _tokenizer(family), precision="fp32", token_budget=budget)

    found = own.ask(QUESTIONS, list(PASSAGES), token_budget=budget)

    _same(found, own.read(QUESTIONS, list(PASSAGES)))
    alone = [
        own.ask([question], [name])[0] for question, name in zip(QUESTIONS, PASSAGES, strict=True)
    ]
    _same(found, alone)
    assert [answer.passage for answer in found] == list(PASSAGES)
    assert (own.states < own.tokens) == (method == "pruned")


def test_answers_are_those_of_the_model_itself():
    model, tokenizer = _model(), _tokenizer()
    own = _index(model, precision="fp32")
    (found,) = own.ask(["w1 w2"], ["twelve"])

    pair = tokenizer("w1 w2", PASSAGES["twelve"], return_tensors="pt", return_offsets_mapping=True)
    offsets = pair.pop("offset_mapping")[0]
    with torch.no_grad():
        output = model(**pair)
    first = 4  # [CLS] w1 w2 [SEP]
    sums = output.start_logits[0, first:-1, None] + output.end_logits[0, first:-1]
    sums = sums.masked_fill(torch.ones_like(sums).tril(-1).bool(), -torch.inf)
    begin, end = divmod(int(sums.argmax()), sums.shape[1])
    assert found.start == offsets[first + begin, 0]
    assert found.end == offsets[first + end, 1]
    assert found.text == PASSAGES["twelve"][found.start : found.end]
    assert found.score == pytest.approx(float(sums.flatten().softmax(0).max()), abs=1e-5)


def test_states_are_kept_as_precise_as_asked(tmp_path):
    model = _model()
    whole = _index(model, precision="fp32")
    wanted = torch.cat([w.hidden for name in PASSAGES for w in whole.store.windows(name)])
    distances, sizes = [], []
    for precision in ("fp32", "fp16", "int8"):
        _index(model, tmp_path / precision, precision=precision)
        own = PassageIndex.open(tmp_path / precision, model, _tokenizer())
        found = torch.cat([w.hidden for name in PASSAGES for w in own.store.windows(name)])
        distances.append(float(((found - wanted) / wanted.abs().amax(1, keepdim=True)).abs().max()))
        sizes.append(own.store.windows("twelve")[0].left["states"].nbytes)
        _same(
            own.ask(QUESTIONS[:2], ["twelve", "five"]),
            whole.read(QUESTIONS[:2], ["twelve", "five"]),
            tolerance={"fp32": 1e-5, "fp16": 1e-3, "int8": 0.03}[precision],
        )

    assert distances[0] == 0
    assert 0 < distances[1] < 2**-11 + 1e-6
    assert distances[1] < distances[2] < 0.5 / 127 + 1e-6
    assert sizes == [13 * 16 * 4, 13 * 16 * 2, 13 * 16]  # 12 words and a separator, 16 wide


def test_states_too_large_for_half_precision_are_refused():
    model = _model("modernbert")
    with torch.no_grad():
        for layer in model.base_model.layers:
            layer.mlp.Wo.weight.mul_(1e6)
    with pytest.raises(ValueError, match="too large for fp16; wanted precision='fp32'"):
        _index(model)
    assert len(_index(model, precision="fp32")) == len(PASSAGES)


def test_a_long_passage_is_kept_in_windows_that_overlap():
    model = _model()
    own = _index(model, precision="fp32")

    windows = own.store.windows("windows")
    starts = [window.tokens["starts"] for window in windows]
    # of 40 tokens 20 are left to the question, 2 stand before the passage and 1 behind it
    assert [len(begin) for begin in starts] == [18] * 5 + [16]
    assert starts[0][-1] == starts[1][-1] == -1
    shared = [set(a.tolist()) & set(b.tolist()) - {-1} for a, b in pairwise(starts)]
    assert [len(places) for places in shared] == [8] * 5  # half of the 17 words of a window
    assert set(torch.cat(starts).tolist()) - {-1} == {
        place for place, sign in enumerate(PASSAGES["windows"]) if sign == "w"
    }
    best = max(_of_a_window(model, window) for window in windows)
    (found,) = own.ask(["w1"], ["windows"])
    assert (found.start, found.end) == best[1:]


def _of_a_window(model, window):
    """Read a window on its own: its best sum of logits, and the characters of that span."""
    tail = window.tokens["input_ids"].tolist()
    ids = torch.tensor([[2, 6, 3, *tail]])
    segments = torch.tensor([[0] * 3 + [1] * len(tail)])
    with torch.no_grad():
        output = model(input_ids=ids, token_type_ids=segments)
    sums = output.start_logits[0, 3:-1, None] + output.end_logits[0, 3:-1]
    sums = sums.masked_fill(torch.ones_like(sums).tril(-1).bool(), -torch.inf)
    begin, end = divmod(int(sums.argmax()), sums.shape[1])
    return (
        float(sums.max()),
        int(window.tokens["starts"][begin]),
        int(window.tokens["ends"][end]),
    )


def test_the_best_answers_of_all_passages_compete():
    own = _index(_model(), precision="fp32")
    every = own.find("w1 w2", count=10_000)

    assert sum(answer.score for answer in every) == pytest.approx(1)
    assert [one.score for one in every] == sorted((one.score for one in every), reverse=True)
    assert {one.passage for one in every} == set(PASSAGES) - {"empty"}
    assert all(
        answer.text == fewer.tasks.clean(PASSAGES[answer.passage])[answer.start : answer.end]
        for answer in every
    )
    for name in ("twelve", "windows"):
        (alone,) = own.ask(["w1 w2"], [name])
        best = next(one for one in every if one.passage == name)
        assert (best.text, best.start, best.end) == (alone.text, alone.start, alone.end)
    assert own.find("w1", ["five", "one"])[0].passage in ("five", "one")
    assert own.find("w1", []) == own.find("w1", ["empty"]) == []
    assert own.ask(["w1"], ["empty"]) == [Answer("empty", "", 0.0, 0, 0)]
    assert own.ask([], []) == []


def test_memory_holds_the_passages_asked_about_last(tmp_path):
    model = _model()
    _index(model, tmp_path)
    names = list(PASSAGES)
    size = sum(w.bytes for w in _index(model).store.windows("windows"))
    own = PassageIndex.open(tmp_path, model, _tokenizer(), memory_bytes=size)
    assert own.store.held_bytes == 0
    wanted = _index(model).ask(QUESTIONS, names)
    for turn in (names, names[::-1], names):
        for name in turn:
            (found,) = own.ask([QUESTIONS[names.index(name)]], [name])
            _same([found], [wanted[names.index(name)]])
            assert 0 < own.store.held_bytes <= size
    assert own.store.windows("five") is own.store.windows("five")

    none = PassageIndex.open(tmp_path, model, _tokenizer(), memory_bytes=0)
    _same(none.ask(QUESTIONS, names), wanted)
    assert none.store.held_bytes == 0
    with pytest.raises(ValueError, match="memory_bytes is -1"):
        PassageIndex.open(tmp_path, model, _tokenizer(), memory_bytes=-1)


def test_what_there_is_is_told(tmp_path):
    own = _index(_model(), tmp_path)
    assert (len(own), own.ids) == (6, list(PASSAGES))
    # one separator behind each window
    assert own.tokens == own.states == (1 + 1) + (12 + 1) + 1 + (5 * 18 + 16) + (5 + 1) + (5 + 1)
    assert own.bytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert own.bytes_per_passage == own.bytes / 6


@pytest.mark.parametrize("method", METHODS)
def test_flops_count_the_question_only_in_the_lower_layers(method):
    model = _model(method=METHODS[method])
    own = _index(model)
    lower, shape = own.contents.lower, fewer.attachment(model).shape
    flops = own.flops(["w1 w2", "w3"], ["twelve", "five"])

    with fewer.record() as traces:
        own.ask(["w1 w2"], ["twelve"])
    left = len(own.store.windows("twelve")[0].left["places"])
    layers = [float(layer.keys) for layer in traces[0].layers]
    assert layers[: lower + 1] == [4.0] * lower + [4.0 + left]  # [CLS] w1 w2 [SEP]
    if method != "pruned":
        cost = shape.layers[0]
        linear = cost.query + cost.key_value + cost.output + cost.ffn
        saved = lower * (linear * 13 + cost.pair * 13**2)
        saved += lower * (linear * 6 + cost.pair * 6**2)
        assert flops.whole - flops.kept == pytest.approx(saved / 2)
    assert flops.kept < 0.7 * flops.whole


def test_an_index_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = _model()
    wanted = _index(model, tmp_path / "whole")
    read = building.read_lower
    passes = []

    def killed(*given):
        passes.append(given)
        if len(passes) > 4:
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(building, "read_lower", killed)
    with pytest.raises(KeyboardInterrupt):
        _index(model, tmp_path / "own")
    with pytest.raises(FileNotFoundError, match="its index was not finished"):
        PassageIndex.open(tmp_path / "own", model, _tokenizer())
    there = {file: file.stat().st_mtime_ns for file in (tmp_path / "own").glob("*.safetensors")}
    assert 0 < len(there) < len(wanted.store.shards)
    last = max(there)
    last.write_bytes(last.read_bytes()[:-5])

    monkeypatch.setattr(building, "read_lower", read)
    _index(model, tmp_path / "own")
    files = [sorted(folder.iterdir()) for folder in (tmp_path / "own", tmp_path / "whole")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert {file for file, time in there.items() if file.stat().st_mtime_ns == time} == (
        set(there) - {last}
    )


def test_shards_of_other_passages_are_not_taken_for_these(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD_CHARS", 30)
    model = _model()
    _index(model, tmp_path, passages={"twelve": "w1 w2"})
    (tmp_path / "passages.json").unlink()
    _index(model, tmp_path)
    own = PassageIndex.open(tmp_path, model, _tokenizer())
    assert own.store.text("twelve") == PASSAGES["twelve"]


def test_a_finished_index_is_not_overwritten(tmp_path):
    _index(_model(), tmp_path)
    with pytest.raises(ValueError, match="holds an index already"):
        _index(_model(), tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        lambda: (_model(seed=1), _tokenizer()),
        lambda: (_model(method=METHODS["three"]), _tokenizer()),
        lambda: (_model(method=DeFormer(lower=2, epochs=1)), _tokenizer()),
        lambda: (_model("electra"), _tokenizer()),
        lambda: (_model(), _tokenizer("roberta")),
        lambda: (_edited("bert.encoder.layer.1."), _tokenizer()),
        lambda: (_edited("bert.embeddings.word"), _tokenizer()),
    ],
    ids=["weights", "lower", "method", "family", "tokenizer", "layer", "embeddings"],
)
def test_an_index_of_another_model_is_refused(other, tmp_path):
    _index(_model(), tmp_path)
    with pytest.raises(ValueError, match="made with another model, method or tokenizer"):
        PassageIndex.open(tmp_path, *other())


def _edited(prefix):
    model = _model()
    with torch.no_grad():
        next(own for name, own in model.named_parameters() if name.startswith(prefix))[0, 0] += 1
    return model


def test_what_does_not_change_the_states_may_change(tmp_path):
    model, tokenizer = _model(), _tokenizer()
    own = _index(model, tmp_path / "index")
    fewer.save(model, tmp_path / "model")
    tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=8)  # its backend notes it

    loaded = fewer.load(tmp_path / "model")  # optimized for this processor
    opened = PassageIndex.open(tmp_path / "index", loaded, tokenizer)
    _same(opened.ask(QUESTIONS, list(PASSAGES)), own.ask(QUESTIONS, list(PASSAGES)), 1e-3)
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
    model = _model()
    _index(model, tmp_path)
    broken(tmp_path)
    with pytest.raises(ValueError, match=said):
        PassageIndex.open(tmp_path, model, _tokenizer())


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def _changed(folder, **changes):
    path = folder / "passages.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="it holds no index"):
        PassageIndex.open(tmp_path, _model(), _tokenizer())


def test_a_shard_that_is_not_one_is_refused_when_it_is_read(tmp_path):
    model = _model()
    _index(model, tmp_path)
    shard = tmp_path / "passages-00000.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    own = PassageIndex.open(tmp_path, model, _tokenizer())
    with pytest.raises(ValueError, match="cannot be read"):
        own.ask(["w1"], ["one"])


def test_a_copied_folder_is_the_same_index(tmp_path):
    model = _model()
    wanted = _index(model, tmp_path / "made").ask(QUESTIONS, list(PASSAGES))
    shutil.copytree(tmp_path / "made", tmp_path / "copied")
    own = PassageIndex.open(tmp_path / "copied", model, _tokenizer())
    assert own.ask(QUESTIONS, list(PASSAGES)) == wanted


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: _model(method=fewer.Dense()), "together from the first layer on"),
        (
            lambda: fewer.attach(tiny(layers=LAYERS), DeFormer()),
            "BertForSequenceClassification does not find answers",
        ),
        (lambda: _skimming(), "other tokens of a passage when the question is another"),
        (
            lambda: _model(
                method=Stack(
                    (DeFormer(lower=3), fewer.LTP(final_threshold=0.2, reference_length=16))
                )
            ),
            "other tokens of a passage when the question is another",
        ),
    ],
    ids=["dense", "classifier", "blocks", "lengths"],
)
def test_a_model_whose_passages_depend_on_the_question_is_refused(model, said):
    with pytest.raises(ValueError, match=said):
        _index(model())


def _skimming():
    model = _model(method=Stack((DeFormer(lower=3), BlockSkim(block=4))))
    torch.manual_seed(1)
    for parameter in fewer.attachment(model).policy.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return fewer.adjust(model, threshold=0.5)


def test_bad_input_is_refused():
    model = _model()
    with pytest.raises(ValueError, match="precision is 'bf16', wanted one of fp32, fp16, int8"):
        _index(model, precision="bf16")
    with pytest.raises(ValueError, match="no passages"):
        _index(model, passages={})
    with pytest.raises(ValueError, match="the id 'a' stands twice"):
        _index(model, passages=[("a", "w1"), ("b", "w2"), ("a", "w3")])
    with pytest.raises(TypeError, match=r"passage 'a', row 0 .*got 5"):
        _index(model, passages={"a": 5})
    with pytest.raises(TypeError, match=r"ids, row 0 .*got 5"):
        _index(model, passages={5: "a"})
    with pytest.raises(ValueError, match="at most 40 tokens"):
        _index(model, max_length=41)
    own = _index(model)
    with pytest.raises(ValueError, match="no passage 'twelv' in the index; did you mean 'twelve'"):
        own.ask(["w1"], ["twelv"])
    with pytest.raises(ValueError, match="as many questions as ids are wanted, got 2 and 1"):
        own.ask(["w1", "w2"], ["one"])
    with pytest.raises(TypeError, match="got one string"):
        own.ask("w1", ["one"])
    with pytest.raises(TypeError, match=r"questions, row 1 .*got None"):
        own.ask(["w1", None], ["one", "one"])


def test_a_question_beyond_its_room_loses_its_end():
    own = _index(_model(), precision="fp32")
    long = " ".join(f"w{n}" for n in range(30))
    with pytest.warns(TruncationWarning, match=r"1 of 2 questions .*the first is question 1"):
        found = own.ask(["w1", long], ["windows", "windows"])
    # 18 tokens are the window's, 2 are [CLS] and [SEP]
    short = " ".join(long.split()[:20])
    _same(found[1:], own.ask([short], ["windows"]))
    (alone,) = own.ask([long], ["one"])
    assert alone.text == "w7"


def test_separators_in_questions_and_passages_do_not_move_the_passage():
    model = _model()
    own = _index(model, precision="fp32", passages={"odd": "w1 [SEP] w2 [CLS] w3", "one": "w1"})
    found = own.ask(["w4 [SEP] w5", "[SEP]"], ["odd", "one"])
    _same(found, own.read(["w4 w5", ""], ["odd", "one"]))
    assert found[0].text in "w1 [SEP] w2 [CLS] w3"


def test_the_model_is_read_in_eval_mode_and_left_as_it_was():
    model = _model().train()
    own = _index(model)
    assert own.ask(QUESTIONS, list(PASSAGES)) == own.ask(QUESTIONS, list(PASSAGES))
    assert model.training
