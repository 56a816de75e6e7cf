"""`fewer.optimize(model, precision="int8")`: what is quantised, refused, left and kept in step."""

import copy
import logging

import pytest
import torch

import fewer
from fewer import LTP
from fewer.backbones import bind
from fewer.backbones.prepacked.autotune import choose
from fewer.hf import optimize as optimize_module
from fewer.hf.optimize import kernels_of, precision_of
from fewer.kernels.cpu.library import best_isa
from fewer.kernels.cpu.ops import Weight
from tests.contract.table import every_backbone
from tests.isas import INT8S, answers, optimized, pretend
from tests.tiny import FAMILIES, ragged, tiny

pytestmark = pytest.mark.skipif(not INT8S, reason="no int8 here")


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(optimize_module, "_logged", set())
    caplog.set_level(logging.INFO, "fewer")
    return lambda: [record.getMessage() for record in caplog.records]


def _int8(model):
    return optimized(model, INT8S[-1])


def _weights(model):
    with torch.inference_mode():
        layers = fewer.attachment(model).backbone(model.base_model).layers
    return [
        {name: value for name, value in vars(layer).items() if isinstance(value, Weight)}
        for layer in layers
    ]


@every_backbone
def test_all_linear_maps_of_the_layers_are_in_int8_and_parameters_do_not_change(backbone):
    model = tiny(backbone)
    before = copy.deepcopy(model.state_dict())
    _int8(model)
    isas = {weight.isa for weights in _weights(model) for weight in weights.values()}
    assert isas == {INT8S[-1]}
    assert (precision_of(model), kernels_of(model)) == ("int8", INT8S[-1].name)
    assert "precision=int8" in repr(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name_also_after_an_edit(value):
    model = tiny()
    weight = model.bert.encoder.layer[1].output.dense.weight
    with torch.no_grad():
        weight[2, 3] = value
    match = r"encoder\.layer\.1\.output\.dense\.weight must be finite"
    with pytest.raises(ValueError, match=match):
        fewer.optimize(model, precision="int8")
    assert kernels_of(model) == "plain torch"
    good = _int8(tiny())
    with torch.no_grad():
        good.bert.encoder.layer[1].output.dense.weight[2, 3] = value
    with pytest.raises(ValueError, match=match):
        answers(good, ragged(good))


def test_a_map_that_int8_would_distort_is_not_quantised_and_named(messages):
    model = tiny()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[:, 0] = 1e3
    batch = ragged(model)
    expected = answers(model, batch)
    _int8(model)
    (line,) = [line for line in messages() if line.startswith("not in int8: ")]
    beside = best_isa(INT8S[-1].attention_dtype)
    assert f"layer 1: narrow in {beside.name}: a relative error of" in line
    assert _weights(model)[1]["narrow"].isa is beside
    assert all(weight.isa is INT8S[-1] for weight in _weights(model)[0].values())
    torch.testing.assert_close(answers(model, batch), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("family", [name for name in ("bert", "nomic-bert") if name in FAMILIES])
def test_an_outlier_of_the_last_map_is_split_and_costs_no_exactness(family):
    torch.manual_seed(1)
    model = tiny(family)
    with torch.no_grad():
        for layer in bind(model.base_model).layers:
            layer.narrow.weight[2, 5] = 5.0
    batch = ragged(model)
    expected = answers(model, batch)
    weights = _weights(_int8(model))[0]
    assert weights["wide"].struct.n == weights["narrow"].struct.k > 32
    if "gate" in weights:  # multiplies the copies too
        assert weights["gate"].struct.n == weights["wide"].struct.n
    torch.testing.assert_close(answers(model, batch), expected, atol=0.1, rtol=0)


def test_an_edited_model_is_quantised_again():
    model = _int8(tiny())
    batch = ragged(model)
    before = answers(model, batch)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.mul_(-3)
    expected = answers(fewer.optimize(copy.deepcopy(model), precision="fp32"), batch)
    assert not torch.allclose(answers(model, batch), before, atol=0.05)
    torch.testing.assert_close(answers(model, batch), expected, atol=0.1, rtol=0)


def test_a_saved_model_is_in_int8_again_when_it_is_loaded_so(tmp_path, monkeypatch):
    model = _int8(fewer.attach(tiny(), LTP(final_threshold=0.1)))
    batch = ragged(model)
    expected = answers(model, batch)
    fewer.save(model, tmp_path)
    choice = optimize_module.Choice(INT8S[-1], "the test")
    precisions = []
    monkeypatch.setattr(
        optimize_module, "choose", lambda precision, *_: precisions.append(precision) or choice
    )
    loaded = fewer.load(tmp_path, precision="int8")
    assert precisions == ["int8"]
    assert torch.equal(answers(loaded, batch), expected)
    assert not torch.equal(answers(fewer.deoptimize(loaded), batch), expected)


def test_int8_is_chosen_on_request_alone(monkeypatch):
    layer = bind(tiny().bert).layers[0]
    assert choose("int8", layer, 16, torch.float32).isa in (INT8S[-1], None)  # by the stopwatch
    monkeypatch.setattr("fewer.backbones.prepacked.autotune._seconds", lambda run: 1.0)
    assert choose("int8", layer, 16, torch.float32).isa is INT8S[-1]
    for precision in ("auto", "fp32"):
        assert choose(precision, layer, 16, torch.float32).isa not in INT8S


@pytest.mark.parametrize("isa", INT8S, ids=lambda isa: isa.name)
def test_attention_is_in_bf16_only_beside_a_processor_that_multiplies_it(isa, monkeypatch):
    model = optimized(tiny(), isa)
    batch = ragged(model)
    expected = answers(fewer.detach(tiny()), batch)
    torch.testing.assert_close(answers(model, batch), expected, atol=0.1, rtol=0)
    assert best_isa(isa.attention_dtype) is not None
    pretend(monkeypatch, INT8S[0])
    assert INT8S[0].attention_dtype is torch.float32
