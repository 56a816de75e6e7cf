"""What attach cannot honour is refused by name, before anything changes; the rest still works."""

from types import SimpleNamespace

import accelerate
import pytest
import torch
import transformers as hf
from torch import nn
from transformers import AttentionInterface, Trainer, TrainingArguments

import fewer
from fewer import LTP
from tests.contract.table import core_backbones
from tests.tiny import ragged, tiny


def _refused(model, *words):
    kinds = type(model), type(model.base_model)
    with pytest.raises(ValueError, match=".*".join(words)):
        fewer.attach(model)
    assert (type(model), type(model.base_model)) == kinds
    assert not hasattr(model.base_model, "fewer")


def _hook(module, args, output):
    return output


class _Layer(hf.models.bert.modeling_bert.BertLayer):
    def forward(self, hidden_states, *args, **kwargs):
        return 2 * super().forward(hidden_states, *args, **kwargs)


class _Encoder(hf.BertModel):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


PLACES = (
    "encoder.layer.1",
    "encoder.layer.1.attention",
    "encoder.layer.1.attention.self",
    "encoder.layer.1.attention.output",
    "encoder.layer.1.attention.self.dropout",
    "encoder.layer.1.intermediate",
    "encoder.layer.1.output",
    "encoder",
    "embeddings",
)
REGISTER = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("place", PLACES)
def test_a_hook_on_a_module_that_is_passed_over_is_named(place, register):
    model = tiny()
    getattr(model.bert.get_submodule(place), register)(_hook)
    _refused(model, place, "_hook")


@pytest.mark.parametrize("method", ["forward", "_call_impl"])
@pytest.mark.parametrize("place", PLACES)
def test_a_patched_forward_of_such_a_module_is_named(place, method):
    model = tiny()
    module = model.bert.get_submodule(place)
    setattr(module, method, getattr(module, method))
    _refused(model, place, "patched forward")


def _read(model, batch):
    try:
        fewer.attach(model)(**batch)
    except ValueError as error:
        return str(error)
    return ""


@core_backbones
def test_in_every_family_a_hook_on_a_layer_and_on_its_parts_is_seen(backbone):
    """Each module is either called by the packed encoder, hooks and all, or refused."""
    names = [name for name, _ in tiny(backbone).base_model.named_modules() if name]
    calls = {}
    for name in names:
        model = tiny(backbone)
        module = model.base_model.get_submodule(name)
        calls[name] = 0

        def count(*_, name=name):
            calls[name] += 1

        module.register_forward_hook(count)
        plain = tiny(backbone)
        expected = [0]
        plain.base_model.get_submodule(name).register_forward_hook(
            lambda *_, expected=expected: expected.__setitem__(0, expected[0] + 1)
        )
        batch = ragged(model)
        plain(**batch)
        error = _read(model, batch)
        assert name in error or (not error and bool(calls[name]) == bool(expected[0])), name


def test_a_hook_that_comes_after_attach_is_refused_by_the_next_pass():
    model = fewer.attach(tiny())
    model.bert.encoder.layer[0].register_forward_hook(_hook)
    with pytest.raises(ValueError, match=r"encoder\.layer\.0"):
        model(**ragged(model))


def test_a_layer_of_another_class_is_named():
    model = tiny()
    model.bert.encoder.layer[2] = _Layer(model.config)
    _refused(model, r"encoder\.layer\.2", "_Layer")


def test_an_encoder_with_a_custom_forward_is_named():
    model = tiny()
    model.bert = _Encoder(model.config)
    _refused(model, "_Encoder")


def test_hooks_that_transformers_itself_left_do_no_harm():
    model = tiny()
    batch = ragged(model)
    with torch.no_grad():
        plain = model(**batch, output_hidden_states=True).logits
        torch.testing.assert_close(fewer.attach(model)(**batch).logits, plain, atol=1e-5, rtol=0)


def test_hooks_on_encoder_and_model_are_called():
    model = fewer.attach(tiny())
    seen = []
    model.register_forward_hook(lambda *_: seen.append("model"))
    model.bert.register_forward_hook(lambda *_: seen.append("encoder"))
    model(**ragged(model))
    assert seen == ["encoder", "model"]


def test_a_forward_set_on_the_model_is_refused():
    model = tiny()
    model.forward = model.forward
    _refused(model, "forward")


def test_a_dropout_of_another_kind_is_refused_and_an_identity_is_none():
    model = tiny()
    model.bert.encoder.layer[0].attention.self.dropout = nn.AlphaDropout(0.5)
    _refused(model, "AlphaDropout")
    model.bert.encoder.layer[0].attention.self.dropout = nn.Identity()
    fewer.attach(model)


@pytest.mark.parametrize("module", ["bert", "bert.encoder.layer.0"])
def test_offloaded_weights_are_refused(module):
    model = tiny()
    accelerate.cpu_offload(model.get_submodule(module), execution_device=torch.device("cpu"))
    _refused(model, "meta|accelerate")


def test_weights_on_the_meta_device_are_refused():
    with torch.device("meta"):
        model = hf.BertForSequenceClassification(tiny().config)
    _refused(model, "meta device")


def test_gradient_checkpointing_is_refused_before_and_after():
    model = tiny()
    new = hasattr(model, "activation_checkpointing_enable")  # its name since transformers 5.20
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    getattr(model, f"{name}_enable")()
    _refused(model, "gradient_checkpointing_disable")
    getattr(model, f"{name}_disable")()
    fewer.attach(model)
    with pytest.raises(ValueError, match=r"fewer\.detach"):
        getattr(model, f"{name}_enable")()


def test_recorded_attention_in_the_config_is_refused():
    model = tiny(attn_implementation="eager")
    model.config.output_attentions = True
    _refused(model, "output_attentions")


def test_a_custom_attention_is_refused():
    AttentionInterface.register("mine", lambda *_, **__: None)
    model = tiny()
    model.config._attn_implementation = "mine"
    _refused(model, "'mine'")


@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM"])
def test_a_causal_language_model_is_refused(name):
    config = tiny("roberta" if name.startswith("R") else "bert").config
    _refused(getattr(hf, name)(config), "causal")


def test_an_encoder_shared_by_two_models_is_attached_once():
    first, second = tiny(), tiny(task="TokenClassification")
    second.bert = first.bert
    fewer.attach(first)
    for shared in (second, first.bert):
        with pytest.raises(ValueError, match=r"fewer\.detach"):
            fewer.attach(shared)
    fewer.detach(first)
    fewer.attach(second)


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        (nn.DataParallel(tiny()), r"\.module"),
        (SimpleNamespace(_orig_mod=None), r"\._orig_mod"),
        (SimpleNamespace(model=tiny(), tokenizer=None), r"\.model"),
        (hf.BertModel, "class BertModel"),
        ("my-model", "AutoModelFor"),
    ],
)
def test_objects_that_are_no_models_are_refused_with_the_remedy(model, advice):
    with pytest.raises(ValueError, match=advice):
        fewer.attach(model)


def test_a_method_may_be_a_name_but_not_a_class():
    assert fewer.attachment(fewer.attach(tiny(), "ltp")).method == LTP()
    with pytest.raises(ValueError, match="class LTP"):
        fewer.attach(tiny(), LTP)
    with pytest.raises(ValueError, match=r"method.*'lpt'.*'ltp'"):
        fewer.attach(tiny(), "lpt")
    with pytest.raises(ValueError, match=r"method must be.*dict"):
        fewer.attach(tiny(), {"name": "ltp"})


def test_states_of_dropped_tokens_are_not_given_for_embeddings():
    model = fewer.attach(tiny(task="Model"), LTP())
    batch = ragged(model)
    with pytest.raises(ValueError, match="without a head"):
        model(**batch)
    fewer.attach(model)
    model(**batch)


def test_an_argument_that_would_be_ignored_is_named():
    model = fewer.attach(tiny())
    batch = ragged(model)
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        model(**batch, cu_seq_lens_q=torch.tensor([0, 3]))


def test_neftune_is_refused_by_name(tmp_path):
    model = fewer.attach(tiny())
    rows = [{"input_ids": [1, 5, 6], "labels": 0}] * 4
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=1, neftune_noise_alpha=5.0, report_to="none"
    )
    with pytest.raises(ValueError, match="neftune"):
        Trainer(model=model, args=args, train_dataset=rows).train()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_tracing_and_exporting_are_refused_in_a_sentence():
    model = fewer.attach(tiny())
    batch = ragged(model)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with pytest.raises(RuntimeError, match=r"fewer\.detach"):
        torch.jit.trace(model, (ids, mask), strict=False)
    with pytest.raises(RuntimeError, match=r"fewer\.detach"):
        torch.export.export(model, (ids, mask), strict=False)
