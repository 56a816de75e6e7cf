"""Attach a method to a Hugging Face model, take it off again, save and load.

`attach` swaps the class of two objects for subclasses made here: the encoder's, whose `forward`
becomes the packed loop, and the whole model's, whose `save_pretrained` also writes the side file.
Parameters, names and every other method stay the model's own, so pipelines, Trainer, peft, deepcopy
and pickle see the model they know. What was attached sits on the encoder as the submodule `fewer`,
so its tensors travel with the state dict, in the same safetensors file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils import logging as hf_logging

from fewer.backbones import bind
from fewer.config import SIDE_FILE, Settings, read_settings, write_settings
from fewer.core.apply import APPLIES
from fewer.core.encode import encode
from fewer.core.policy import Dense, Method
from fewer.core.trace import recorded
from fewer.inputs import pack
from fewer.kernels import kernel as find_kernel

if TYPE_CHECKING:
    from fewer.core.cost import Shape

__all__ = ["Attachment", "applying", "attach", "attachment", "detach", "load", "longest", "save"]

DEFAULT_LENGTH = 512  # where neither model nor tokenizer has a limit
Model = TypeVar("Model", bound=nn.Module)


class Attachment(nn.Module):
    """What sits on an encoder: a method, its policy, and how decisions are carried out."""

    def __init__(self, settings: Settings, shape: Shape) -> None:
        super().__init__()
        self.settings = settings
        self.shape = shape
        self.policy = settings.method.build(shape)
        self.apply_in_training = "compact"
        self.apply_in_eval = "compact"

    @property
    def method(self) -> Method:
        """The description that was attached."""
        return self.settings.method


class _Attached(PreTrainedModel):
    """What both attached classes share: where they come from, and how copies and pickles find back.

    A class made at run time cannot be pickled by name; its origin can.
    """

    _fewer_origin: ClassVar[tuple[Any, bool, bool]]  # the arguments of `_attached_class`
    supports_gradient_checkpointing = False  # the loop would skip it in silence

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
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput | BaseModelOutputWithPooling | tuple[Any, ...]:
        """Read a padded batch through the packed loop.

        The output has the caller's shape, zeros on padding.
        """
        _refuse(self.config, kwargs)
        backbone, own = bind(self), self.fewer
        tokens = pack(
            backbone,
            input_ids,
            inputs_embeds,
            attention_mask,
            token_type_ids,
            position_ids,
            own.settings.protect,
        )
        hidden, trace = encode(
            backbone.layers,
            own.policy,
            tokens,
            apply=APPLIES[own.apply_in_training if self.training else own.apply_in_eval],
            attend=find_kernel(own.settings.kernel),
            finish=backbone.finish,
        )
        recorded(trace)
        output: BaseModelOutput | BaseModelOutputWithPooling
        if backbone.pool is None:
            output = BaseModelOutput(last_hidden_state=hidden)
        else:
            pooled = backbone.pool(hidden)
            output = BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()


class _SavingModel(_Attached):
    """The part of an attached model's class that is ours (of the encoder's too, if it is alone)."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as always, and the side file with it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_settings(attachment(self).settings, save_directory)


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
    return type(original.__name__, (*ours, original), own)


def _rebuilt(original: Any, packs: bool, saves: bool) -> Any:
    kind = _attached_class(original, packs, saves)
    return kind.__new__(kind)


def attach(
    model: Model,
    method: Method | None = None,
    *,
    kernel: str = "auto",
    protect: tuple[int, ...] = (),
) -> Model:
    """Let a model's encoder run packed, in place, with `method` deciding who reads on.

    Without a method nobody leaves. Returns the same model: same parameters, same answers where the
    method keeps all tokens, no padding computed. `kernel` names the attention kernel; tokens whose
    id is in `protect` never leave ([CLS] never does). Attaching again replaces the method. Raises
    `ValueError` for an architecture that is not supported (the message lists those that are).

    >>> model = fewer.attach(model, fewer.LTP(target=0.5))  # doctest: +SKIP
    """
    whole, encoder = _parts(model)
    find_kernel(kernel)
    shape = bind(encoder).shape
    settings = Settings(Dense() if method is None else method, kernel, tuple(protect))
    own = Attachment(settings, shape).to(encoder.device)
    detach(model)
    encoder.fewer = own
    own.train(encoder.training)
    _become(encoder, packs=True, saves=whole is encoder)
    if whole is not encoder:
        _become(whole, packs=False, saves=True)
    return model


def _become(part: Any, *, packs: bool, saves: bool) -> None:
    origin: Any = type(part)
    part.__class__ = _attached_class(origin, packs, saves)


def detach(model: Model) -> Model:
    """Give a model back as it was before `attach`, in place; parameters stay as they are now.

    Harmless if nothing is attached.
    """
    whole, encoder = _parts(model)
    parts: tuple[Any, ...] = (whole, encoder)
    for part in parts:
        if isinstance(part, _Attached):
            part.__class__ = part._fewer_origin[0]
    if "fewer" in encoder._modules:
        del encoder.fewer
    return model


def attachment(model: nn.Module) -> Attachment:
    """Return what is attached to a model. Raises `ValueError` if nothing is."""
    _, encoder = _parts(model)
    if not isinstance(encoder, _PackedEncoder):
        raise ValueError(
            f"nothing is attached to this {type(model).__name__}; call fewer.attach(model) first"
        )
    return encoder.fewer


def longest(model: nn.Module, wanted: int | None, tokenizer_says: int) -> int:
    """Choose how many tokens of a text to read: `wanted`, or what the tokenizer says.

    Raises `ValueError` if the model has fewer positions than are wanted.
    """
    limit = bind(_parts(model)[1]).max_tokens
    if wanted is not None and limit is not None and wanted > limit:
        raise ValueError(f"max_length is {wanted}, but this model reads at most {limit} tokens")
    return wanted or min(tokenizer_says, limit or DEFAULT_LENGTH)


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


def save(model: nn.Module, folder: str | Path) -> None:
    """Save an attached model as an ordinary Hugging Face folder plus `fewer.json`.

    Plain transformers still loads it. Raises `ValueError` for adapters that are not merged: such
    a folder would lack the weights under them.
    """
    whole, _ = _parts(model)
    attachment(whole)
    if whole is not model:
        raise ValueError(
            f"this {type(model).__name__} holds adapters beside the weights; save what "
            "model.merge_and_unload() returns, or the adapters alone by model.save_pretrained"
        )
    whole.save_pretrained(folder)


def load(name: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Load a folder (or hub id) that `save` wrote, attached and in eval mode.

    A plain model gets no method.

    `kwargs` go to `from_pretrained` (`dtype`, `revision`, ...). Raises `FileNotFoundError`
    for a missing file and `ValueError` for one that is truncated, or whose side file is not
    understood.
    """
    folder = _local(name, kwargs)
    settings = read_settings(folder)
    tensors = _own_tensors(folder)
    model = _loaded(folder, kwargs)
    attach(model, settings.method, kernel=settings.kernel, protect=settings.protect)
    policy = attachment(model).policy
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    if held != wanted:
        raise ValueError(
            f"{folder} holds the tensors {held} of a method, wanted {wanted} for "
            f"{settings.method}; the checkpoint is incomplete or its {SIDE_FILE} is another's: "
            "save it again"
        )
    policy.load_state_dict(tensors)
    model.eval()
    return model


def _parts(model: nn.Module) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return the Hugging Face model and the encoder inside it, out of a peft wrapper."""
    whole: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]  # peft
    if not isinstance(whole, PreTrainedModel):
        raise ValueError(
            f"got a {type(model).__name__}, wanted a transformers PreTrainedModel (or one "
            "wrapped by peft)"
        )
    encoder: Any = whole.base_model
    return whole, encoder


def _refuse(config: Any, kwargs: dict[str, Any]) -> None:
    for name in ("output_attentions", "output_hidden_states"):
        if kwargs.get(name) or (kwargs.get(name) is None and getattr(config, name)):
            raise ValueError(
                f"{name} is not available from the packed encoder; call fewer.detach(model) to "
                "inspect it"
            )
    for name in ("encoder_hidden_states", "past_key_values"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{name} was given, but fewer reads encoders without cross-attention or cache"
            )


def _local(name: str | Path, kwargs: dict[str, Any]) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1:
            raise FileNotFoundError(
                f"{folder} is not a folder; wanted one written by fewer.save, or a hub id"
            )
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        folder = Path(
            snapshot_download(str(name), revision=kwargs.get("revision"), allow_patterns=patterns)
        )
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing; wanted a model folder")
    return folder


def _loaded(folder: Path, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Load the model of a folder in the class that its config names; no weight may be missing."""
    import transformers

    path = folder / "config.json"
    try:
        name = (json.loads(path.read_text(encoding="utf-8")).get("architectures") or ["AutoModel"])[
            0
        ]
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); copy or save the model again"
        ) from error
    if not hasattr(transformers, name):
        raise ValueError(
            f"{path} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have"
        )
    with _quiet():
        model, report = getattr(transformers, name).from_pretrained(
            folder, output_loading_info=True, **kwargs
        )
    if report["missing_keys"]:
        raise ValueError(
            f"{folder} holds no weights for {sorted(report['missing_keys'])}; the checkpoint is "
            "incomplete (for a new head, load it with transformers and call fewer.attach)"
        )
    return cast("PreTrainedModel", model)


def _own_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the policy's tensors from a model's safetensors file or shards.

    `ValueError` for a truncated one.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found: dict[str, Tensor] = {}
    for file in (folder / name for name in names):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing; wanted the weights beside config.json")
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 (not a dict)
                    _, mark, own = ("." + key).rpartition(".fewer.policy.")
                    if mark:
                        found[own] = tensors.get_tensor(key)
        except SafetensorError as error:
            raise ValueError(
                f"{file} cannot be read ({error}); it is truncated or broken: copy or save it again"
            ) from error
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting our own tensors as unexpected.

    Its errors still come through.
    """
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
