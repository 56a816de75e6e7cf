import sys
import threading
from itertools import pairwise

import pytest
import torch

import fewer
from fewer.passages import Answer, PassageIndex, building
from fewer.tasks import TruncationWarning
from tests.unit.passages.made import (
    METHODS,
    PASSAGES,
    QUESTIONS,
    index_of,
    model_of,
    same,
    tokenizer_of,
)


@pytest.mark.parametrize("budget", [1, 60, 8192])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "albert"])
def test_answers_from_indexed_passages_equal_those_of_the_full_model(family, method, budget):
    model = model_of(family, METHODS[method])
    index = index_of(model, None, tokenizer_of(family), precision="fp32", token_budget=budget)

    results = index.ask(QUESTIONS, list(PASSAGES), token_budget=budget)

    same(results, index.read(QUESTIONS, list(PASSAGES)))
    alone = [
        index.ask([question], [name])[0] for question, name in zip(QUESTIONS, PASSAGES, strict=True)
    ]
    same(results, alone)
    assert [answer.passage for answer in results] == list(PASSAGES)
    assert (index.states < index.tokens) == (method == "pruned")


def test_answers_are_those_of_the_model_itself():
    model, tokenizer = model_of(), tokenizer_of()
    index = index_of(model, precision="fp32")
    (results,) = index.ask(["w1 w2"], ["twelve"])

    pair = tokenizer("w1 w2", PASSAGES["twelve"], return_tensors="pt", return_offsets_mapping=True)
    offsets = pair.pop("offset_mapping")[0]
    with torch.no_grad():
        output = model(**pair)
    first = 4  # [CLS] w1 w2 [SEP]
    sums = output.start_logits[0, first:-1, None] + output.end_logits[0, first:-1]
    sums = sums.masked_fill(torch.ones_like(sums).tril(-1).bool(), -torch.inf)
    begin, end = divmod(int(sums.argmax()), sums.shape[1])
    assert results.start == offsets[first + begin, 0]
    assert results.end == offsets[first + end, 1]
    assert results.text == PASSAGES["twelve"][results.start : results.end]
    assert results.score == pytest.approx(float(sums.flatten().softmax(0).max()), abs=1e-5)


def test_states_are_stored_in_the_given_precision(tmp_path):
    model = model_of()
    reference = index_of(model, precision="fp32")
    expected = torch.cat([w.hidden for name in PASSAGES for w in reference.store.windows(name)])
    distances, sizes = [], []
    for precision in ("fp32", "fp16", "int8"):
        index_of(model, tmp_path / precision, precision=precision)
        index = PassageIndex.open(tmp_path / precision, model, tokenizer_of())
        results = torch.cat([w.hidden for name in PASSAGES for w in index.store.windows(name)])
        distances.append(
            float(((results - expected) / expected.abs().amax(1, keepdim=True)).abs().max())
        )
        sizes.append(index.store.windows("twelve")[0].remaining["states"].nbytes)
        same(
            index.ask(QUESTIONS[:2], ["twelve", "five"]),
            reference.read(QUESTIONS[:2], ["twelve", "five"]),
            tolerance={"fp32": 1e-5, "fp16": 1e-3, "int8": 0.03}[precision],
        )

    assert distances[0] == 0
    assert 0 < distances[1] < 2**-11 + 1e-6
    assert distances[1] < distances[2] < 0.5 / 127 + 1e-6
    assert sizes == [13 * 16 * 4, 13 * 16 * 2, 13 * 16]  # 12 words and a separator, 16 wide


def test_states_too_large_for_half_precision_are_refused():
    model = model_of("modernbert")
    with torch.no_grad():
        for layer in model.base_model.layers:
            layer.mlp.Wo.weight.mul_(1e6)
    with pytest.raises(ValueError, match="precision must be fp32"):
        index_of(model)
    assert len(index_of(model, precision="fp32")) == len(PASSAGES)


def test_a_long_passage_is_stored_in_overlapping_windows():
    model = model_of()
    index = index_of(model, precision="fp32")

    windows = index.store.windows("windows")
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
    (results,) = index.ask(["w1"], ["windows"])
    assert (results.start, results.end) == best[1:]


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
    index = index_of(model_of(), precision="fp32")
    every = index.find("w1 w2", count=10_000)

    assert sum(answer.score for answer in every) == pytest.approx(1)
    assert [answer.score for answer in every] == sorted(
        (answer.score for answer in every), reverse=True
    )
    assert {answer.passage for answer in every} == set(PASSAGES) - {"empty"}
    assert all(
        answer.text == fewer.tasks.clean(PASSAGES[answer.passage])[answer.start : answer.end]
        for answer in every
    )
    for name in ("twelve", "windows"):
        (alone,) = index.ask(["w1 w2"], [name])
        best = next(answer for answer in every if answer.passage == name)
        assert (best.text, best.start, best.end) == (alone.text, alone.start, alone.end)
    assert index.find("w1", ["five", "one"])[0].passage in ("five", "one")
    assert index.find("w1", []) == index.find("w1", ["empty"]) == []
    assert index.ask(["w1"], ["empty"]) == [Answer("empty", "", 0.0, 0, 0)]
    assert index.ask([], []) == []


def test_the_cache_holds_the_last_used_passages(tmp_path):
    model = model_of()
    index_of(model, tmp_path)
    names = list(PASSAGES)
    size = sum(w.bytes for w in index_of(model).store.windows("windows"))
    index = PassageIndex.open(tmp_path, model, tokenizer_of(), memory_bytes=size)
    assert index.store.cached_bytes == 0
    expected = index_of(model).ask(QUESTIONS, names)
    for order in (names, names[::-1], names):
        for name in order:
            (results,) = index.ask([QUESTIONS[names.index(name)]], [name])
            same([results], [expected[names.index(name)]])
            assert 0 < index.store.cached_bytes <= size
    assert index.store.windows("five") is index.store.windows("five")

    none = PassageIndex.open(tmp_path, model, tokenizer_of(), memory_bytes=0)
    same(none.ask(QUESTIONS, names), expected)
    assert none.store.cached_bytes == 0
    with pytest.raises(ValueError, match="memory_bytes must be 0 or more; got -1"):
        PassageIndex.open(tmp_path, model, tokenizer_of(), memory_bytes=-1)


def test_an_index_reports_its_sizes(tmp_path):
    index = index_of(model_of(), tmp_path)
    assert (len(index), index.ids) == (6, list(PASSAGES))
    # one separator behind each window
    assert (
        index.tokens == index.states == (1 + 1) + (12 + 1) + 1 + (5 * 18 + 16) + (5 + 1) + (5 + 1)
    )
    assert index.bytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert index.bytes_per_passage == index.bytes / 6


@pytest.mark.parametrize("method", METHODS)
def test_flops_count_the_question_only_in_the_lower_layers(method):
    model = model_of(method=METHODS[method])
    index = index_of(model)
    lower, shape = index.contents.lower, fewer.attachment(model).spec
    flops = index.flops(["w1 w2", "w3"], ["twelve", "five"])

    with fewer.record() as traces:
        index.ask(["w1 w2"], ["twelve"])
    left = len(index.store.windows("twelve")[0].remaining["places"])
    layers = [float(layer.keys) for layer in traces[0].layers]
    assert layers[: lower + 1] == [4.0] * lower + [4.0 + left]  # [CLS] w1 w2 [SEP]
    if method != "pruned":
        cost = shape.layers[0]
        linear = cost.query + cost.key_value + cost.output + cost.ffn
        saved = lower * (linear * 13 + cost.pair * 13**2)
        saved += lower * (linear * 6 + cost.pair * 6**2)
        assert flops.full - flops.indexed == pytest.approx(saved / 2)
    assert flops.indexed < 0.7 * flops.full


def test_a_question_beyond_its_room_loses_its_end():
    index = index_of(model_of(), precision="fp32")
    long = " ".join(f"w{n}" for n in range(30))
    with pytest.warns(TruncationWarning, match=r"1 of 2 questions .*the first is question 1"):
        results = index.ask(["w1", long], ["windows", "windows"])
    # 18 tokens are the window's, 2 are [CLS] and [SEP]
    short = " ".join(long.split()[:20])
    same(results[1:], index.ask([short], ["windows"]))
    (alone,) = index.ask([long], ["one"])
    assert alone.text == "w7"


def test_separators_in_questions_and_passages_do_not_move_the_passage():
    model = model_of()
    index = index_of(model, precision="fp32", passages={"odd": "w1 [SEP] w2 [CLS] w3", "one": "w1"})
    results = index.ask(["w4 [SEP] w5", "[SEP]"], ["odd", "one"])
    same(results, index.read(["w4 [ SEP ] w5", "( SEP )"], ["odd", "one"]))  # all unknown words
    assert results[0].text in "w1 [SEP] w2 [CLS] w3"


def test_the_model_is_read_in_eval_mode_and_left_as_it_was():
    model = model_of().train()
    index = index_of(model)
    assert index.ask(QUESTIONS, list(PASSAGES)) == index.ask(QUESTIONS, list(PASSAGES))
    assert model.training


def test_threads_that_share_an_index_get_the_answers_of_each_alone(tmp_path, monkeypatch):
    model, names = model_of(), list(PASSAGES)
    monkeypatch.setattr(building, "SHARD_CHARS", 30)  # several shards, opened by whoever is first
    reference = index_of(model, tmp_path)
    size = sum(window.bytes for window in reference.store.windows("windows"))
    expected = {name: reference.store.windows(name)[0].hidden for name in names}
    answers = reference.ask(QUESTIONS, names)
    index = PassageIndex.open(
        tmp_path, model, tokenizer_of(), memory_bytes=size
    )  # one goes, one comes
    barrier, failed = threading.Barrier(8), []

    def ask(number):
        order = names[number % len(names) :] + names[: number % len(names)]
        barrier.wait()
        try:
            for _ in range(60):
                for name in order:
                    assert index.store.windows(name)[0].hidden.equal(expected[name])
            same(
                index.ask([QUESTIONS[names.index(name)] for name in order], order),
                [answers[names.index(name)] for name in order],
            )
        except Exception as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
    window_bytes = [sum(window.bytes for window in index.store.windows(name)) for name in names]
    assert 0 < index.store.cached_bytes <= size
    assert max(window_bytes) == size
