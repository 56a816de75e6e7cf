"""`fewer.optimize`: what it notices, what it leaves alone, how it is undone, what it says."""

import copy
import logging
import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.nn.utils.prune
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import fewer
from fewer import LTP
from fewer.hf import attach as attach_module
from fewer.hf import attachment as attachment_module
from fewer.hf import optimize as optimize_module
from fewer.kernels.cpu import library
from fewer.kernels.cpu.batch_invariant import BatchInvariantLinear
from fewer.kernels.cpu.library import Isa
from tests.contract.table import every_backbone
from tests.isas import FLOATS, HALVES, answers, needs_kernels, optimized, pretend
from tests.tiny import ragged, tiny

pytestmark = needs_kernels


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(optimize_module, "_logged", set())


@pytest.fixture
def model():
    return optimized(tiny())


@pytest.fixture
def messages(caplog):
    """Collect what is logged."""
    caplog.set_level(logging.INFO, "fewer")
    return lambda: [record.getMessage() for record in caplog.records]


def _packed(model):
    """Tell whether the compiled layers would run."""
    encoder = model.base_model
    with torch.inference_mode():
        layers = fewer.attachment(model).backbone(encoder).layers
    return [type(layer).__name__.startswith("Prepacked") for layer in layers]


def _as_plain(model):
    """Assert that the model answers as a plain model of the same weights does."""
    batch = ragged(model)
    plain = copy.deepcopy(model)
    expected = answers(fewer.detach(plain), batch)
    torch.testing.assert_close(answers(model, batch), expected, atol=1e-5, rtol=0)


def _step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(**ragged(model), labels=torch.tensor([0, 1, 2, 1, 0])).loss.backward()
    optimizer.step()


def _layer(model):
    return model.bert.encoder.layer[1]


def _new_linear(old):
    torch.manual_seed(9)
    return nn.Linear(old.in_features, old.out_features)


EDITS = {
    "a step of training": _step,
    "load_state_dict": lambda model: model.load_state_dict(tiny(seed=5).state_dict(), strict=False),
    "load_state_dict, assigned": lambda model: model.load_state_dict(
        tiny(seed=5).state_dict(), strict=False, assign=True
    ),
    "numbers through data": lambda model: _layer(model).intermediate.dense.weight.data.mul_(2),
    "new data": lambda model: setattr(
        _layer(model).output.dense.weight, "data", torch.randn(16, 32)
    ),
    "data of another layout": lambda model: setattr(
        _layer(model).output.dense.weight, "data", torch.randn(32, 16).t()
    ),
    "a norm": lambda model: _layer(model).output.LayerNorm.bias.data.add_(1),
    "embeddings": lambda model: model.bert.embeddings.word_embeddings.weight.data.mul_(3),
    "the head": lambda model: model.classifier.weight.data.neg_(),
    "a replaced map": lambda model: setattr(
        _layer(model).output, "dense", _new_linear(_layer(model).output.dense)
    ),
    "a replaced layer": lambda model: model.bert.encoder.layer.__setitem__(0, _layer(model)),
    "a layer less": lambda model: model.bert.encoder.layer.__delitem__(2),
    "a layer more": lambda model: model.bert.encoder.layer.append(copy.deepcopy(_layer(model))),
    "other embeddings": lambda model: setattr(
        model.bert.embeddings, "word_embeddings", nn.Embedding(60, 16)
    ),
    "a moved parameter": lambda model: model.double().float(),
    "shared memory": lambda model: model.share_memory(),
    "another activation": lambda model: setattr(
        _layer(model).intermediate, "intermediate_act_fn", nn.ReLU().eval()
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_noticed(model, edit):
    before = answers(model, ragged(model))
    EDITS[edit](model)
    _as_plain(model)
    if edit not in ("a moved parameter", "shared memory"):
        assert not torch.allclose(answers(model, ragged(model)), before)
    assert all(_packed(model))


def test_a_bias_where_there_was_none_is_noticed():
    model = tiny()
    _layer(model).output.dense.bias = None
    optimized(model)
    answers(model, ragged(model))
    _layer(model).output.dense.bias = nn.Parameter(torch.ones(16))
    _as_plain(model)
    assert all(_packed(model))


def test_an_edit_is_logged(model, messages):
    answers(model, ragged(model))
    _layer(model).output.dense.weight.data.mul_(2)
    answers(model, ragged(model))
    assert "was edited since it was optimized" in messages()[-1]


@pytest.mark.parametrize(
    "part",
    [
        lambda layer: layer.attention.self.value,
        lambda layer: layer.output.LayerNorm,
        lambda layer: layer.intermediate.intermediate_act_fn,
    ],
)
def test_hooks_are_called_and_the_other_layers_stay_packed(model, part):
    answers(model, ragged(model))
    seen = []
    hook = part(_layer(model)).register_forward_hook(lambda *_: seen.append(1))
    _as_plain(model)
    assert seen
    assert _packed(model) == [True, False, True]
    hook.remove()
    assert all(_packed(model))


def test_a_patched_forward_is_called(model):
    answers(model, ragged(model))
    linear = _layer(model).output.dense
    linear.forward = lambda x: torch.zeros(*x.shape[:-1], 16)
    _as_plain(model)
    assert _packed(model) == [True, False, True]


def test_a_hook_on_embeddings_is_called(model):
    answers(model, ragged(model))
    model.bert.embeddings.word_embeddings.register_forward_pre_hook(lambda _, x: (x[0] * 0 + 9,))
    _as_plain(model)


class _Quantized(nn.Linear):
    """Stands for a layer of some library for quantised models."""

    def forward(self, input):
        return super().forward(input).round()


@pytest.mark.parametrize(
    "change",
    [
        lambda linear: setattr(linear, "dense", _Quantized(32, 16)),
        lambda linear: torch.nn.utils.prune.l1_unstructured(linear.dense, "weight", 0.5),
        lambda linear: torch.nn.utils.parametrizations.weight_norm(linear.dense),
        lambda linear: linear.dense.double(),
    ],
    ids=["a subclass", "pruned by torch", "a parametrization", "64 bits"],
)
def test_a_layer_that_is_no_plain_one_runs_as_it_is_and_is_named(change, messages):
    model = tiny()
    change(_layer(model).output)
    if _layer(model).output.dense.bias.dtype is torch.float64:  # torch itself mixes no dtypes
        optimized(model.eval())
    else:
        expected = answers(model.eval(), ragged(model))
        actual = answers(optimized(model), ragged(model))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert _packed(model) == [True, False, True]
    assert sum(line.startswith("runs as it is: layer 1: ") for line in messages()) == 1


@pytest.mark.filterwarnings("ignore")  # torch has announced to take them out
def test_torchs_own_quantised_layers_run_as_they_are(messages):
    if not hasattr(torch.ao, "quantization"):
        pytest.skip("this torch does not quantise")
    model = torch.ao.quantization.quantize_dynamic(tiny(), {nn.Linear}, dtype=torch.qint8)
    batch = ragged(model)
    expected = answers(fewer.attach(model), batch)  # its scales depend on the rows, and on padding
    fewer.optimize(model, precision="fp32")
    assert "not optimized: layer 0: a torch.ao" in messages()[-1]
    torch.testing.assert_close(answers(model, batch), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["gelu_10", "quick_gelu", "mish", "relu6", "laplace"])
def test_an_activation_without_a_kernel_is_left_alone(name):
    model = tiny(hidden_act=name)
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.bias.fill_(30.0)  # where some are cut off
    optimized(model)
    _as_plain(model)
    assert not any(_packed(model))


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "gelu_python", "relu", "silu", "tanh"])
def test_an_activation_is_recognised_by_its_values(name):
    model = optimized(tiny(hidden_act=name))
    _as_plain(model)
    assert all(_packed(model))


def test_an_embedding_smaller_than_the_config_says_has_only_its_own_ids():
    model = tiny()
    model.bert.embeddings.word_embeddings = nn.Embedding(30, 16)
    optimized(model)
    batch = {"input_ids": torch.full((1, 3), 29)}
    assert answers(model, batch).isfinite().all()
    with pytest.raises(ValueError, match=r"input_ids must be in 0\.\.29.*got 30"):
        answers(model, {"input_ids": torch.full((1, 3), 30)})


def test_modes_are_followed(model):
    batch = ragged(model)
    expected = answers(fewer.detach(tiny()), batch)
    assert all(_packed(model))
    model.bert.encoder.layer[0].output.dropout.train()  # dropout at inference, by hand
    assert not any(_packed(model))
    assert not torch.equal(answers(model, batch), answers(model, batch))
    model.eval().requires_grad_(False)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)  # no `no_grad`
    with torch.inference_mode(), torch.inference_mode(False), torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)
    assert all(_packed(model))


def test_a_model_made_in_inference_mode_is_packed_too():
    with torch.inference_mode():
        model = optimized(tiny())
    _as_plain(model)
    assert all(_packed(model))


@every_backbone
def test_deoptimize_gives_back_the_bits_and_the_classes(backbone):
    model = fewer.attach(tiny(backbone), LTP(final_threshold=0.2))
    batch = ragged(model)
    before, kinds = answers(model, batch), [type(part) for part in model.modules()]
    optimized(model)
    assert any(type(part) is BatchInvariantLinear for part in model.modules())
    answers(model, batch)
    fewer.deoptimize(model)
    assert torch.equal(answers(model, batch), before)
    assert [type(part) for part in model.modules()] == kinds
    assert not any("_prepacked" in part.__dict__ for part in model.modules())
    assert fewer.deoptimize(model) is model


def test_deoptimizing_a_plain_model_does_nothing():
    assert not attach_module.is_attached(fewer.deoptimize(tiny()))


@pytest.mark.parametrize("undo", [fewer.detach, fewer.attach])
def test_taking_the_method_off_or_attaching_another_undoes_it(model, undo):
    undo(model)
    assert not any(type(part) is BatchInvariantLinear for part in model.modules())


@every_backbone
def test_copies_answer_alike_and_are_independent(backbone):
    model = optimized(fewer.attach(tiny(backbone), LTP(final_threshold=0.2)))
    batch = ragged(model)
    expected = answers(model, batch)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answers(copied, batch), expected)
        assert all(_packed(copied))
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.mul_(0.5)
        assert not torch.allclose(answers(copied, batch), expected)
        assert torch.equal(answers(model, batch), expected)
        assert type(fewer.detach(copied)) is type(tiny(backbone))


def test_a_pickle_for_another_processor_runs_in_plain_torch(model, messages, monkeypatch):
    batch, pickled = ragged(model), pickle.dumps(model)
    expected = answers(model, batch)
    pretend(monkeypatch, None)
    monkeypatch.setattr(attachment_module, "available_isas", library.available_isas)
    copied = pickle.loads(pickled)
    torch.testing.assert_close(answers(copied, batch), expected, atol=1e-5, rtol=0)
    answers(copied, batch)
    assert [line for line in messages() if "this processor has no" in line] == [
        f"this processor has no {FLOATS[-1].name}: plain torch runs the model"
    ]


def test_a_saved_model_is_an_ordinary_one_and_is_optimized_when_loaded(model, tmp_path):
    batch = ragged(model)
    expected = answers(model, batch)
    fewer.save(model, tmp_path)
    plain = fewer.load(tmp_path, precision=None)
    assert fewer.attachment(plain).isa is None
    assert set(plain.state_dict()) == set(model.state_dict())
    torch.testing.assert_close(answers(plain, batch), expected, atol=1e-5, rtol=0)
    assert torch.equal(answers(optimized(plain), batch), expected)
    loaded = fewer.load(tmp_path)
    assert fewer.attachment(loaded).isa in (None, *FLOATS)  # as the stopwatch says
    torch.testing.assert_close(answers(loaded, batch), expected, atol=1e-5, rtol=0)


def test_adapters_are_left_as_they_are_and_packed_when_merged(messages):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    model = fewer.attach(tiny())
    batch, adapted = ragged(model), peft.get_peft_model(model, config).eval()
    expected = answers(adapted, batch)
    fewer.optimize(adapted, precision="fp32")
    assert "not optimized: layer 0: a peft" in messages()[-1]
    assert "merge adapters" in messages()[-1]
    torch.testing.assert_close(answers(adapted, batch), expected, atol=1e-5, rtol=0)
    merged = optimized(adapted.merge_and_unload())
    assert all(_packed(merged))
    torch.testing.assert_close(answers(merged, batch), expected, atol=1e-4, rtol=0)


def test_adapters_on_an_optimized_model_take_part_and_are_packed_when_merged(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    batch = ragged(model)
    before = answers(model, batch)
    adapted = peft.get_peft_model(model, config).eval()
    expected = answers(adapted, batch)
    assert not torch.allclose(expected, before)
    assert not any(_packed(adapted.get_base_model()))
    merged = adapted.merge_and_unload()
    assert all(_packed(merged))
    torch.testing.assert_close(answers(merged, batch), expected, atol=1e-4, rtol=0)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="precision must be one of auto, fp32, bf16, int8; got 'int4'"
    ):
        fewer.optimize(tiny(), precision="int4")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_is_refused_where_the_processor_cannot_multiply_it(precision, monkeypatch):
    pretend(monkeypatch, FLOATS[-1])
    with pytest.raises(ValueError, match=rf"multiply {precision} .* use precision="):
        fewer.optimize(tiny(), precision=precision)


def test_a_model_on_another_device_is_refused_and_a_moved_model_runs_in_torch(model):
    with pytest.raises(ValueError, match=r"on meta\. Move it"):
        fewer.optimize(tiny().to("meta"))
    answers(model, ragged(model))
    model.to("meta")
    with suppress(RuntimeError, NotImplementedError):  # torch's own, and no crash
        assert answers(model, ragged(model)).is_meta  # torch 2.6 takes indices of the CPU


def test_without_the_library_plain_torch_runs_and_it_is_logged_once(monkeypatch, messages):
    monkeypatch.setattr(library, "_library", lambda: "no library here")
    pretend(monkeypatch, None)
    model = tiny()
    expected = answers(fewer.attach(model, kernel="sdpa"), ragged(model))
    for precision in ("auto", "fp32", "bf16"):
        assert fewer.optimize(model, precision=precision) is model
        assert torch.equal(answers(model, ragged(model)), expected)
    assert messages() == ["not optimized: no library here"]


def test_the_selected_kernels_are_logged_once(messages):
    for _ in range(3):
        optimized(tiny())
    assert messages() == ["optimized for the test"]


def test_the_attention_kernel_of_ones_choice_is_used():
    for kernel in ("reference", "sdpa", "native"):
        for isa in (FLOATS[-1], *HALVES[-1:]):
            model = fewer.attach(tiny(), LTP(final_threshold=0.2), kernel=kernel)
            batch = ragged(model)
            expected = answers(model, batch)
            atol = 1e-5 if isa.dtype is torch.float32 else 0.1
            torch.testing.assert_close(
                answers(optimized(model, isa), batch), expected, atol=atol, rtol=0
            )


def test_isas_have_the_numbers_of_the_library():
    source = Path(library.__file__).with_name("source") / "abi.h"
    numbers = re.search(r"enum Isa \{(.*?)\}", source.read_text(), re.DOTALL)
    assert numbers is not None
    assert dict(re.findall(r"(\w+) = (\d+)", numbers[1])) == {
        isa.name: str(isa.value) for isa in Isa
    }


def test_a_hook_on_all_modules_is_called_for_all_maps_and_packs_nothing_anew(model, messages):
    batch, names = ragged(model), {part: name for name, part in model.named_modules()}
    expected, seen = answers(model, batch), set()
    handle = register_module_forward_hook(lambda module, *_: seen.add(names.get(module)))
    actual = answers(model, batch)
    handle.remove()
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert seen >= {names[part] for part in names if isinstance(part, nn.Linear | nn.LayerNorm)}
    assert all(_packed(model))
    assert not any("edited" in line for line in messages())
