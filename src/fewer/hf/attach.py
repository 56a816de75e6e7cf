"""Attach a method to a Hugging Face model and detach it.

`attach` swaps the classes of two objects for subclasses: the encoder's, whose `forward` becomes the
packed loop, and the model's, whose `save_pretrained` also writes the side file. Parameters, names
and all other methods stay those of the original class, so pipelines, Trainer, peft, deepcopy and
pickle work unchanged. The `Attachment` is the submodule `fewer` of the encoder, so its tensors are
part of the state dict and of the same safetensors file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from fewer._files.disk import writing
from fewer._files.manifest import MANIFEST
from fewer._validation.names import check_known
from fewer.core.apply import APPLIES
from fewer.core.encode import encode
from fewer.core.phase import Phase
from fewer.core.policy import Dense, Method, StartsFromPooler
from fewer.core.trace import publish
from fewer.hf.attachment import Attachment
from fewer.hf.cached_states import current_states
from fewer.hf.eval_view import eval_view
from fewer.hf.exit_logits import answering_forward
from fewer.hf.gliner import text_encoder_of
from fewer.hf.gliner_spans import share_words, unshare_words
from fewer.hf.hidden_states import RecordingPolicy, padded_states
from fewer.hf.packing import pack
from fewer.hf.refusals import (
    refuse_call,
    refuse_model,
    refuse_object,
    refuse_states,
    refuse_tracing,
)
from fewer.hf.sentence_transformers import transformer_of
from fewer.hf.side_file import (
    MARK,
    Settings,
    mark_of,
    method_from,
    write_settings,
)
from fewer.hf.swapped_class import Swapped, derive_class
from fewer.hf.task_heads import model_spec, pooler_of, reads_every_token, task_head
from fewer.kernels import kernel as find_kernel
from fewer.kernels.cpu.batch_invariant import swap_back

__all__ = [
    "Attachment",
    "applying",
    "attach",
    "attachment",
    "detach",
    "evaluating",
    "is_attached",
    "parts",
    "resolve_method",
    "running",
    "set_threshold",
]

log = logging.getLogger("fewer")
Model = TypeVar("Model", bound=nn.Module)
Function = TypeVar("Function", bound=Callable[..., Any])
_COMPILED = ("auto", "native")  # kernels of attention that compiled layers have inside


def _left_out_of_graphs(function: Function) -> Function:
    """Let `torch.compile` call a function as it is: it cannot trace what depends on lengths."""
    disable: Any = torch.compiler.disable
    disabled: Function = disable(function)
    return disabled


class _Attached(Swapped, PreTrainedModel):
    """Base of both attached classes."""

    supports_gradient_checkpointing = False  # the loop would ignore it silently

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the packed encoder stores all activations."""
        raise ValueError(
            "gradient checkpointing must be off while fewer is attached; got it enabled. Call "
            "fewer.detach(model) first, or train with smaller batches."
        )


class _PackedEncoder(_Attached):
    """Mixin of an attached encoder: `forward` runs the packed loop."""

    fewer: Attachment

    @_left_out_of_graphs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Encode a padded batch by the packed loop; the output is padded too, with zeros."""
        refuse_call(self.config, kwargs)
        refuse_tracing()
        attachment = self.fewer
        if attachment.reads_every_token and not self.training:
            refuse_states(attachment.policy, attachment.method, self)
        backbone = attachment.backbone(self)
        tokens = pack(
            backbone,
            input_ids,
            inputs_embeds,
            attention_mask,
            token_type_ids,
            position_ids,
            attachment.settings.protect,
            protects_first_text=attachment.protects_first_text,
            restarts_positions=attachment.policy.inputs.restarts_positions,
            needs_second_text=attachment.policy.inputs.second_text,
            needs_ids=attachment.policy.inputs.ids,
            anchors=global_attention_mask,
        )
        policy = attachment.policy
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_hidden_states:
            policy = RecordingPolicy(policy, attachment.method)
        hidden, trace = encode(
            backbone.layers,
            policy,
            tokens,
            attend=find_kernel(attachment.settings.kernel),
            phase=attachment.phase_of(training=self.training),
            finish=backbone.finish,
            cached=current_states(),
            graphs=attachment.graphs(self),
            chain=backbone.chain if attachment.settings.kernel in _COMPILED else None,
        )
        publish(trace)
        pooled = None if backbone.pool is None else backbone.pool(hidden)
        output: ModelOutput = backbone.output(last_hidden_state=hidden, pooler_output=pooled)
        if output_hidden_states:
            output["hidden_states"] = padded_states(tokens, trace.layers, hidden)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()


class _SavingModel(_Attached):
    """Mixin of an attached model, or of an encoder without a head: saving writes the side file."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the side file, then the model; config.json records that there is a side file.

        Weights keep their names in the model, by which the Trainer loads a checkpoint. The manifest
        of an earlier save is removed, since it no longer matches.
        """
        kwargs.setdefault("save_original_format", False)
        settings, folder = attachment(self).settings, Path(save_directory)
        mark = mark_of(settings)
        folder.mkdir(parents=True, exist_ok=True)
        if kwargs.get("is_main_process", True):
            write_settings(settings, folder)
        config = vars(self.config)
        previous = {MARK: config[MARK]} if MARK in config else {}
        config[MARK] = mark
        try:
            with writing(folder):
                super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            del config[MARK]
            config.update(previous)
        (folder / MANIFEST).unlink(missing_ok=True)


@cache
def _attached_class(original: Any, packs: bool, saves: bool) -> Any:
    mixins = ((_SavingModel,) if saves else ()) + ((_PackedEncoder,) if packs else ())
    forward = {"forward": answering_forward(original)} if saves and not packs else {}
    return derive_class(_attached_class, (original, packs, saves), mixins, **forward)


def attach(
    model: Model,
    method: Method | str | None = None,
    *,
    kernel: str = "auto",
    protect: tuple[int, ...] = (),
) -> Model:
    """Run a model's encoder packed, in place, with `method` deciding which tokens it computes.

    Without a method all tokens are kept; a name stands for the method with its defaults. Returns
    the same model: same parameters, same outputs where the method keeps all tokens, and padding is
    not computed. `kernel` names the attention kernel. Tokens whose id is in `protect`, and [CLS],
    are never pruned. Attaching a second method replaces the first. Raises `ValueError` for an
    architecture that is not supported (the message lists the supported ones), for a method with
    settings of a wrong type or that does not fit the model, and for a model in a state that would
    be ignored: hooks or patches inside the encoder, offloaded weights, gradient checkpointing,
    recorded outputs, a custom attention.

    A `SentenceTransformer`, `CrossEncoder` or `SparseEncoder` of sentence-transformers may be given
    itself; its `encode`, `predict` and `rank` stay what they are. So may a GLiNER object, whose
    text encoder is attached, and whose span layer then computes every word and span once.

    >>> model = fewer.attach(model, fewer.LTP(target=0.5))  # doctest: +SKIP
    """
    hf_model, encoder = parts(model)
    find_kernel(kernel)
    refuse_model(hf_model, encoder)
    _refuse_shared(hf_model, encoder)
    spec = model_spec(hf_model, encoder)
    settings = Settings(resolve_method(method), kernel, tuple(protect))
    attached = Attachment(settings, spec, task_head(hf_model)).to(encoder.device)
    attached.reads_every_token = reads_every_token(hf_model, encoder)
    if (pooler := pooler_of(hf_model, encoder)) is not None:
        for module in attached.policy.modules():
            if isinstance(module, StartsFromPooler):
                module.start_from(pooler)
    detach(model)
    encoder.fewer = attached
    attached.train(encoder.training)
    vars(hf_model.config).pop(MARK, None)  # read from a folder by plain transformers
    for module, packs in {hf_model: hf_model is encoder, encoder: True}.items():
        origin: Any = type(module)
        module.__class__ = _attached_class(origin, packs, module is hf_model)
    share_words(model)
    return model


def resolve_method(method: Method | str | None) -> Method:
    """Return a method that is given itself, by its name, or not at all, which prunes nothing."""
    if method is None:
        return Dense()
    if isinstance(method, str):
        return method_from(method)
    if isinstance(method, type) or not isinstance(method, Method):
        name = getattr(method, "__name__", type(method).__name__)
        raise ValueError(
            f"method must be a method such as fewer.LTP(target=0.5), or its name; got "
            f"{'the class ' if isinstance(method, type) else 'a '}{name}. Pass an instance."
        )
    return method


def _refuse_shared(hf_model: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Raise `ValueError` for an encoder attached in another model, which would lose its method."""
    is_standalone = isinstance(encoder, _SavingModel)
    if isinstance(encoder, _PackedEncoder) and (
        is_standalone is not (hf_model is encoder) or not isinstance(hf_model, _SavingModel)
    ):
        raise ValueError(
            f"the encoder of a {type(hf_model).__name__} must belong to it alone; got an encoder "
            "that is attached in another model. Call fewer.detach on that model first."
        )


def detach(model: Model) -> Model:
    """Restore a model's classes, in place, with its current weights; harmless if not attached."""
    hf_model, encoder = parts(model)
    modules: tuple[Any, ...] = (hf_model, encoder)
    for module in modules:
        if isinstance(module, _Attached):
            module.__class__ = module._fewer_origin[0]
    if "fewer" in encoder._modules:
        del encoder.fewer
    swap_back(hf_model)
    unshare_words(model)
    return model


def attachment(model: nn.Module) -> Attachment:
    """Return the `Attachment` of a model. Raises `ValueError` if nothing is attached."""
    _, encoder = parts(model)
    if not isinstance(encoder, _PackedEncoder):
        raise ValueError(
            f"model must be attached; nothing is attached to this {type(model).__name__}. Call "
            "fewer.attach(model) first."
        )
    return encoder.fewer


def is_attached(model: nn.Module) -> bool:
    """Return whether a method is attached to a model."""
    return isinstance(parts(model)[1], _PackedEncoder)


def set_threshold(model: Model, threshold: float | Sequence[float]) -> Model:
    """Set the threshold at which texts exit or tokens are frozen, in place.

    Its meaning and range are those of the method's criterion; a stack of several such methods has a
    number for each, in order. It is saved with the model, which loses a certificate of
    `fewer.calibrate`. Raises `ValueError` for a value outside the range, and for a method without
    such a threshold.

    >>> fewer.set_threshold(model, threshold=0.3)  # doctest: +SKIP
    """
    attached = attachment(model)
    points = attached.policy.operating_points()
    if points is None:
        raise ValueError(
            f"method must have a threshold to set; got {attached.method}, which has no threshold. "
            "Early exits have one; LTP learns its own."
        )
    points.set(tuple(threshold) if isinstance(threshold, Sequence) else threshold)
    attached.settings = replace(attached.settings, certificate=None)
    return model


@contextmanager
def running(model: nn.Module, phase: Phase) -> Iterator[None]:
    """Run forward passes inside the block as a phase of training does, in both modes."""
    with _setting(attachment(model), "phase", phase):
        yield


@contextmanager
def applying(model: nn.Module, name: str) -> Iterator[None]:
    """Apply decisions by `name`, of `fewer.core.apply.APPLIES`, inside the block, in both modes."""
    check_known(name, APPLIES, "apply")
    with _setting(attachment(model), "apply_name", name):
        yield


@contextmanager
def _setting(attached: Attachment, name: str, value: Any) -> Iterator[None]:
    previous = getattr(attached, name)
    setattr(attached, name, value)
    try:
        yield
    finally:
        setattr(attached, name, previous)


@contextmanager
def evaluating(model: Model) -> Iterator[Model]:
    """Yield a view of a model in eval mode: shared weights, and modes that no other thread sets.

    A model in eval mode is its own view. Raises `ValueError` for a model in training mode whose
    `forward` is patched by a function that cannot be bound to the view.
    """
    view = eval_view(model)
    if view is not model:
        shared = set(map(id, model.modules()))
        for module in list(view.modules()):
            if isinstance(module, _PackedEncoder) and id(module) not in shared:
                attached = module.fewer.without_kernels(shared)  # the layers of the model train
                attached.phase = None
                module._modules["fewer"] = attached
    yield view


def parts(model: nn.Module) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return the Hugging Face model, out of peft or another library's object, and its encoder."""
    hf_model: Any = text_encoder_of(transformer_of(model))
    if hasattr(hf_model, "get_base_model"):  # peft
        hf_model = hf_model.get_base_model()
    if not isinstance(hf_model, PreTrainedModel):
        refuse_object(model)
    encoder: Any = hf_model.base_model
    return hf_model, encoder
