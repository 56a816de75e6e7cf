"""Attach a method to a Hugging Face model, take it off again.

`attach` swaps the class of two objects for subclasses made here: the encoder's, whose `forward`
becomes the packed loop, and the whole model's, whose `save_pretrained` also writes the side file.
Parameters, names and every other method stay the model's own, so pipelines, Trainer, peft, deepcopy
and pickle see the model they know. What was attached sits on the encoder as the submodule `fewer`,
so its tensors travel with the state dict, in the same safetensors file.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from fewer._files.disk import writing
from fewer._files.manifest import MANIFEST
from fewer._validation.types import check_length
from fewer.backbones import bind
from fewer.backbones.prepacked.engine import Engine
from fewer.core.apply import APPLIES
from fewer.core.encode import encode
from fewer.core.policy import Dense, Method
from fewer.core.trace import publish
from fewer.hf.answering import answering_forward
from fewer.hf.config import (
    MARK,
    Settings,
    check_settings,
    mark_of,
    method_from,
    write_settings,
)
from fewer.hf.eval_view import eval_view
from fewer.hf.packing import pack
from fewer.hf.refusals import (
    refuse_call,
    refuse_model,
    refuse_object,
    refuse_states,
    refuse_tracing,
)
from fewer.hf.task_heads import model_spec, pooler_of
from fewer.kernels import kernel as find_kernel
from fewer.kernels.cpu.batch_invariant import swap_back
from fewer.kernels.cpu.library import Isa, available

if TYPE_CHECKING:
    from fewer.backbones import Backbone
    from fewer.core.cost import ModelSpec

__all__ = [
    "Attachment",
    "applying",
    "attach",
    "attachment",
    "detach",
    "evaluating",
    "is_attached",
    "longest",
    "parts",
    "set_threshold",
]

log = logging.getLogger("fewer")
DEFAULT_LENGTH = 512  # where neither model nor tokenizer has a limit
NO_LIMIT = 10**20  # tokenizers without a limit say more
PRECISION_OF = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
Model = TypeVar("Model", bound=nn.Module)


class Attachment(nn.Module):
    """What sits on an encoder: a method, its policy, and how decisions are carried out."""

    def __init__(self, settings: Settings, shape: ModelSpec) -> None:
        super().__init__()
        self.settings = settings
        self.shape = shape
        self.policy = settings.method.build(shape)
        self.has_head = True  # whether something but the user reads the encoder's states
        self.apply_in_training = "compact"
        self.apply_in_eval = "compact"
        self.isa: Isa | None = None  # whose kernels run inference; None: plain torch
        self._engine: Engine | None = None

    @property
    def method(self) -> Method:
        """The description that was attached."""
        return self.settings.method

    @property
    def protects_first_text(self) -> bool:
        """Whether tokens may go, but none of the question that a passage is to answer."""
        return self.shape.answers == "span" and bool(self.policy.sites)

    def backbone(self, encoder: nn.Module) -> Backbone:
        """View the encoder: packed where it was optimized and the engine will do, else as it is."""
        if self.isa is not None and self.isa not in available():  # unpickled elsewhere
            log.warning("this processor has no %s: plain torch runs the model", self.isa.name)
            self.isa = None
        isa = self.isa  # read once: another thread may take the engine off
        if isa is None:
            return bind(encoder)
        return self._engine_for(isa, encoder).backbone(encoder) or bind(encoder)

    def engine(self, encoder: nn.Module) -> Engine:
        """Return the packed weights of an optimized encoder, packed now if they are not yet."""
        assert self.isa is not None
        return self._engine_for(self.isa, encoder)

    def _engine_for(self, isa: Isa, encoder: nn.Module) -> Engine:
        engine = self._engine
        if engine is None or engine.isa is not isa:
            engine = self._engine = Engine(encoder, isa)
        return engine

    def packed_for(self, isa: Isa | None) -> None:
        """Let the kernels of `isa` run inference, or plain torch; weights are packed at need."""
        self.isa, self._engine = isa, None

    def extra_repr(self) -> str:
        """Show what `print(model)` should tell: the method, the precision and the kernels."""
        precision = "of the weights" if self.isa is None else PRECISION_OF[self.isa.dtype]
        kernels = "plain torch" if self.isa is None else self.isa.name
        return (
            f"method={self.method}, precision={precision}, kernels={kernels}, "
            f"attention={self.settings.kernel}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind, which points into memory; a copy packs its own weights."""
        return self.__dict__ | {"_engine": None}


class _Attached(PreTrainedModel):
    """What both attached classes share: where they come from, and how copies and pickles find back.

    A class made at run time cannot be pickled by name; its origin can.
    """

    _fewer_origin: ClassVar[tuple[Any, bool, bool]]  # the arguments of `_attached_class`
    supports_gradient_checkpointing = False  # the loop would skip it in silence

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the packed encoder keeps all of its activations."""
        raise ValueError(
            "gradient checkpointing must stay off while fewer is attached, whose packed encoder "
            "does not do it. Call fewer.detach(model) first, or train with smaller batches."
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, self._fewer_origin, self.__dict__


class _PackedEncoder(_Attached):
    """The part of an attached encoder's class that is ours."""

    fewer: Attachment

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
        **kwargs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Read a padded batch through the packed loop.

        The output has the caller's shape, zeros on padding.
        """
        refuse_call(self.config, kwargs)
        refuse_tracing()
        own = self.fewer
        if own.policy.sites and not (own.has_head or self.training):
            refuse_states(own.method, self)
        backbone = own.backbone(self)
        tokens = pack(
            backbone,
            input_ids,
            inputs_embeds,
            attention_mask,
            token_type_ids,
            position_ids,
            own.settings.protect,
            protects_first_text=own.protects_first_text,
            restarts_positions=own.policy.inputs.restarts_positions,
            needs_second_text=own.policy.inputs.second_text,
            anchors=global_attention_mask,
        )
        hidden, trace = encode(
            backbone.layers,
            own.policy,
            tokens,
            apply=APPLIES[own.apply_in_training if self.training else own.apply_in_eval],
            attend=find_kernel(own.settings.kernel),
            finish=backbone.finish,
        )
        publish(trace)
        pooled = None if backbone.pool is None else backbone.pool(hidden)
        output: ModelOutput = backbone.output(last_hidden_state=hidden, pooler_output=pooled)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()


class _SavingModel(_Attached):
    """The part of an attached model's class that is ours (of the encoder's too, if it is alone)."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as always, and before it the side file; config.json tells that there is one.

        Weights keep the names that they have in the model: the Trainer loads a checkpoint by these.
        A manifest of what was there before no longer holds and is removed.
        """
        kwargs.setdefault("save_original_format", False)
        settings, folder = attachment(self).settings, Path(save_directory)
        mark = mark_of(settings)
        folder.mkdir(parents=True, exist_ok=True)
        if kwargs.get("is_main_process", True):
            write_settings(settings, folder)
        held = vars(self.config)
        before = {MARK: held[MARK]} if MARK in held else {}
        held[MARK] = mark
        try:
            with writing(folder):
                super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            del held[MARK]
            held.update(before)
        (folder / MANIFEST).unlink(missing_ok=True)


@cache
def _attached_class(original: Any, packs: bool, saves: bool) -> Any:
    """Derive from `original`.

    Name and module stay, because pipelines and `config.architectures` read them.
    """
    ours = ((_SavingModel,) if saves else ()) + ((_PackedEncoder,) if packs else ())
    own = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_fewer_origin": (original, packs, saves),
    }
    if saves and not packs:
        own["forward"] = answering_forward(original)
    return type(original.__name__, (*ours, original), own)


def _rebuilt(original: Any, packs: bool, saves: bool) -> Any:
    kind = _attached_class(original, packs, saves)
    return kind.__new__(kind)


def attach(
    model: Model,
    method: Method | str | None = None,
    *,
    kernel: str = "auto",
    protect: tuple[int, ...] = (),
) -> Model:
    """Let a model's encoder run packed, in place, with `method` deciding who reads on.

    Without a method nobody leaves; a name stands for the method with its defaults. Returns the same
    model: same parameters, same answers where the method keeps all tokens, no padding computed.
    `kernel` names the attention kernel; tokens whose id is in `protect` never leave ([CLS] never
    does). Attaching again replaces the method. Raises
    `ValueError` for an architecture that is not supported (the message lists those that are), for
    a method with settings of a wrong type or that does not fit the model, and for a model in a
    state that would be ignored: hooks or patches inside the encoder, weights that are offloaded,
    gradient checkpointing, recorded outputs, an attention of the user's own.

    >>> model = fewer.attach(model, fewer.LTP(target=0.5))  # doctest: +SKIP
    """
    whole, encoder = parts(model)
    find_kernel(kernel)
    refuse_model(whole, encoder)
    _refuse_shared(whole, encoder)
    shape = model_spec(whole, encoder)
    settings = Settings(_resolve(method), kernel, tuple(protect))
    check_settings(settings.method)
    own = Attachment(settings, shape).to(encoder.device)
    own.has_head = whole is not encoder
    if (pooler := pooler_of(whole, encoder)) is not None:
        own.policy.start_from(pooler)
    detach(model)
    encoder.fewer = own
    own.train(encoder.training)
    vars(whole.config).pop(MARK, None)  # of a folder that plain transformers loaded
    _become(encoder, packs=True, saves=whole is encoder)
    if whole is not encoder:
        _become(whole, packs=False, saves=True)
    return model


def _resolve(method: Method | str | None) -> Method:
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


def _refuse_shared(whole: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Refuse an encoder that is attached as part of another model, which would lose its method."""
    attached_alone = isinstance(encoder, _SavingModel)
    if isinstance(encoder, _PackedEncoder) and (
        attached_alone is not (whole is encoder) or not isinstance(whole, _SavingModel)
    ):
        raise ValueError(
            f"the encoder of a {type(whole).__name__} must belong to it alone; got one that is "
            "attached as part of another model. Call fewer.detach on that model first."
        )


def _become(part: Any, *, packs: bool, saves: bool) -> None:
    origin: Any = type(part)
    part.__class__ = _attached_class(origin, packs, saves)


def detach(model: Model) -> Model:
    """Give a model back as it was before `attach`, in place; parameters stay as they are now.

    Harmless if nothing is attached.
    """
    whole, encoder = parts(model)
    both: tuple[Any, ...] = (whole, encoder)
    for part in both:
        if isinstance(part, _Attached):
            part.__class__ = part._fewer_origin[0]
    if "fewer" in encoder._modules:
        del encoder.fewer
    swap_back(whole)
    return model


def attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model. Raises `ValueError` if nothing is."""
    _, encoder = parts(model)
    if not isinstance(encoder, _PackedEncoder):
        raise ValueError(
            f"nothing is attached to this {type(model).__name__}; call fewer.attach(model) first"
        )
    return encoder.fewer


def is_attached(model: nn.Module) -> bool:
    """Tell whether anything is attached to a model."""
    return isinstance(parts(model)[1], _PackedEncoder)


def longest(model: nn.Module, wanted: int | None, tokenizer_says: int) -> int:
    """Choose how many tokens of a text to read: `wanted`, or what the tokenizer says.

    Raises `ValueError` if fewer than one are wanted, or more than the model has positions.
    """
    if wanted is not None:
        check_length(wanted)
    limit = bind(parts(model)[1]).max_tokens
    if wanted is not None and limit is not None and wanted > limit:
        raise ValueError(f"max_length is {wanted}, but this model reads at most {limit} tokens")
    limits = [most for most in (limit, tokenizer_says) if most is not None and most < NO_LIMIT]
    return min(limits, default=DEFAULT_LENGTH) if wanted is None else wanted


def set_threshold(model: Model, threshold: float) -> Model:
    """Turn the threshold at which texts or tokens leave an attached model early, in place.

    Its meaning and range are those of the method's criterion. It is saved with the model. Raises
    `ValueError` for a value outside the range, and for a method that has no such threshold.

    >>> fewer.adjust(model, threshold=0.3)  # doctest: +SKIP
    """
    own = attachment(model)
    dial = own.policy.dial()
    if dial is None:
        raise ValueError(
            f"{own.method} has no threshold to adjust; early exits have one, LTP learns its own"
        )
    dial.check(threshold)
    dial.value.fill_(threshold)
    return model


@contextmanager
def applying(model: nn.Module, name: str) -> Iterator[None]:
    """Carry decisions out by `name` inside the block, in training and in eval mode.

    One of compact, mask, soften, soften_output.
    """
    if name not in APPLIES:
        raise ValueError(
            f"unknown way to apply decisions {name!r}; choose one of {', '.join(APPLIES)}"
        )
    own = attachment(model)
    before = own.apply_in_training, own.apply_in_eval
    own.apply_in_training = own.apply_in_eval = name
    try:
        yield
    finally:
        own.apply_in_training, own.apply_in_eval = before


@contextmanager
def evaluating(model: Model) -> Iterator[Model]:
    """Give a view of a model in eval mode: the same weights, and modes that no other thread turns.

    A model in eval mode is its own view. Raises `ValueError` where a forward was patched, on a
    model in training mode, by what cannot be pointed at the view.
    """
    view = eval_view(model)
    if view is not model:
        shared = set(map(id, model.modules()))
        for part in list(view.modules()):
            if isinstance(part, _PackedEncoder) and id(part) not in shared:
                own = copy.copy(part.fewer)
                own.packed_for(None)  # packed weights belong to the model, whose layers train
                part._modules["fewer"] = own
    yield view


def parts(model: nn.Module) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return the Hugging Face model and the encoder inside it, out of a peft wrapper."""
    whole: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]  # peft
    if not isinstance(whole, PreTrainedModel):
        refuse_object(model)
    encoder: Any = whole.base_model
    return whole, encoder
