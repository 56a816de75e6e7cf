"""An optimized model gives the answers of the plain one, and the same in every batch."""

import random

import pytest
import torch

import fewer
from tests.contract.table import (
    METHODS,
    build,
    counts,
    every_backbone,
    every_family,
    law_of_families,
    law_of_methods,
    read,
)
from tests.isas import FLOATS, best_isas, every_isa, needs_kernels, optimized, pretend
from tests.rounding import ROUNDING, assert_same
from tests.tiny import SHARING, ragged, real, text, tiny

FLOAT = ROUNDING[torch.float32]
HALF = 0.1  # of the largest number of an answer: bf16 has 8 bits, and a tiny model few to average
COMPOSITIONS = 60  # a backbone and method; 1080 in all
UNSCORED = ("dense", "drop-middle", "drop-after", "freeze", "freeze-after", "nobody")


def _allowed(isa):
    """Give the rounding of an instruction set, and the least magnitude that it is a share of."""
    return (FLOAT, 1.0) if isa in FLOATS else (HALF, 0.0)


def _same_reading(trace, other):
    assert torch.equal(trace.layers_read, other.layers_read)
    assert torch.equal(counts(trace), counts(other))


@needs_kernels
@law_of_methods()
def test_in_fp32_it_reads_and_answers_as_the_plain_model(method, backbone):
    # the answers of tagging show the state of every token
    model = build(method, backbone, "TokenClassification", kernel="reference")
    batch = ragged(model)
    wanted, plain = read(model, batch)
    logits, trace = read(optimized(model), batch)
    assert_same(logits, wanted)
    _same_reading(trace, plain)


@every_isa
@every_backbone
def test_every_instruction_set_gives_the_same_within_its_precision(backbone, isa, monkeypatch):
    pretend(monkeypatch, isa)
    for method in UNSCORED:
        model = build(method, backbone)
        batch = ragged(model)
        wanted, plain = read(model, batch)
        logits, trace = read(optimized(model, isa), batch)
        assert_same(logits, wanted, *_allowed(isa))
        _same_reading(trace, plain)


@best_isas
@every_backbone
def test_played_removal_is_real_removal_here_too(backbone, isa):
    model = optimized(fewer.attach(tiny(backbone), METHODS["drop-middle"].method), isa)
    batch = ragged(model)
    (masked, played), (compact, real_) = read(model, batch, "mask"), read(model, batch)
    assert_same(masked, compact, FLOAT if isa in FLOATS else HALF)
    assert torch.equal(played.layers_read, real_.layers_read)


def _compositions(model, texts, number, threads=(1,)):
    """Draw batches of 1 to 16 of the texts, in any order, with padding: which, and the batch."""
    draw = random.Random(number)
    for _ in range(number):
        chosen = draw.sample(range(len(texts)), draw.randint(1, 16))
        longest = max(texts[one]["input_ids"].shape[1] for one in chosen)
        columns = longest + draw.choice([0, 0, 1, 7])
        torch.set_num_threads(draw.choice(threads))
        yield chosen, _padded([texts[one] for one in chosen], columns, model.config.pad_token_id)


def _padded(texts, columns, padding):
    batch = {}
    for name in texts[0]:
        fill = padding if name == "input_ids" else 0
        rows = [
            torch.nn.functional.pad(one[name], (0, columns - one[name].shape[1]), value=fill)
            for one in texts
        ]
        batch[name] = torch.cat(rows)
    return batch


def _assert_alone_is_together(model, texts, number, threads=(1,)):
    before = torch.get_num_threads()
    alone = [read(model, one) for one in texts]
    try:
        for chosen, batch in _compositions(model, texts, number, threads):
            logits, trace = read(model, batch)
            for row, one in enumerate(chosen):
                wanted, own = alone[one]
                length = texts[one]["input_ids"].shape[1]
                found = logits[row] if logits.ndim == 2 else logits[row, :length]
                assert torch.equal(found, wanted[0])
                assert torch.equal(trace.layers_read[row, :length], own.layers_read[0])
    finally:
        torch.set_num_threads(before)


def _texts(model, number=24):
    lengths = [1, 2, 3, 38, *random.Random(0).choices(range(1, 38), k=number - 4)]
    batch = ragged(model, lengths)
    return [text(batch, row) for row in range(number)]


@needs_kernels
@law_of_families(
    (
        *("ltp", "dense", "fastbert", "right-tool", "tokee", "linear-shortcut"),
        "block-skim-states-prescreen",
    )
)
def test_a_text_has_the_same_answer_to_the_last_bit_in_every_batch(method, backbone):
    model = optimized(build(method, backbone, sizes={"width": 24}))
    number = COMPOSITIONS // 4 if backbone in SHARING else COMPOSITIONS
    _assert_alone_is_together(model, _texts(model), number)


@every_isa
@pytest.mark.parametrize("method", ["dense", "ltp"])
def test_so_it_is_with_every_instruction_set_and_number_of_threads(method, isa, monkeypatch):
    pretend(monkeypatch, isa)
    model = optimized(fewer.attach(tiny(width=24), METHODS[method].method), isa)
    _assert_alone_is_together(model, _texts(model, 16), 8, threads=(1, 2, 3))


@best_isas
@every_backbone
def test_so_it_is_for_the_answers_of_single_tokens(backbone, isa):
    model = optimized(
        fewer.attach(tiny(backbone, "TokenClassification"), METHODS["ltp"].method), isa
    )
    _assert_alone_is_together(model, _texts(model), COMPOSITIONS // 3)


@best_isas
@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_dtype_keeps_it_and_its_answers(backbone, dtype, isa):
    model = tiny(backbone)
    batch = ragged(model)
    with torch.inference_mode():
        wanted = model(**batch).logits
        if backbone == "modernbert" and dtype is torch.float64:
            pytest.skip("transformers itself does not run it")
        optimized(model.to(dtype), isa)
        found = model(**batch).logits
        embedded = model.get_input_embeddings()(batch["input_ids"])
        named = {name: one for name, one in batch.items() if name != "input_ids"}
        given = model(inputs_embeds=embedded, **named).logits
    assert found.dtype is dtype
    close = FLOAT if dtype is torch.float64 else HALF  # 64 bits are left to torch
    for logits in (found, given):
        assert_same(logits.float(), wanted, close)


@best_isas
@every_backbone
def test_autocast_changes_no_more_than_its_own_rounding(backbone, isa):
    model = optimized(tiny(backbone), isa)
    batch = ragged(model)
    with torch.inference_mode():
        wanted = fewer.detach(tiny(backbone))(**batch).logits
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**batch).logits
    assert_same(found.float(), wanted, HALF)


@best_isas
@every_backbone
def test_embeddings_may_be_given_instead_of_ids(backbone, isa):
    model = tiny(backbone)
    batch = ragged(model)
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach()
    named = {name: values for name, values in batch.items() if name != "input_ids"}
    named["inputs_embeds"] = embedded
    with torch.inference_mode():
        wanted = model(**named).logits
        found = optimized(model, isa)(**named).logits
    assert_same(found, wanted, *_allowed(isa))


@needs_kernels
@every_family
def test_the_states_of_a_bare_encoder_are_the_plain_ones(backbone):
    model = tiny(backbone, "Model")
    batch = ragged(model)
    with torch.inference_mode():
        wanted = model(**batch)
        found = optimized(model)(**batch)
    assert_same(real(found.last_hidden_state, batch), real(wanted.last_hidden_state, batch))
    assert found.keys() == wanted.keys()
    if "pooler_output" in wanted:
        assert_same(found.pooler_output, wanted.pooler_output)


@needs_kernels
@every_backbone
def test_gradients_and_training_are_those_of_the_plain_model(backbone):
    model, plain = optimized(tiny(backbone)), fewer.attach(tiny(backbone))
    batch = ragged(model) | {"labels": torch.tensor([0, 1, 2, 1, 0])}
    for mode in (False, True):
        gradients = []
        for one in (model, plain):
            one.train(mode).zero_grad()
            torch.manual_seed(0)
            one(**batch).loss.backward()
            gradients.append({name: p.grad for name, p in one.named_parameters()})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            wanted = gradients[1][name]
            assert (gradient is wanted is None) or torch.equal(gradient, wanted), name
