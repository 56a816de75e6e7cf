"""Random models of every family, changed after they were made, against plain transformers.

`python -m tests.fuzz_models 5000` runs many; the suite runs some. A model that fewer.attach takes
must answer as it did, in eval mode and with gradients; one that it does not take must be named.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fewer
from tests.tiny import FAMILIES, has_task, ragged, tiny

TASKS = (
    "SequenceClassification",
    "TokenClassification",
    "QuestionAnswering",
    "MaskedLM",
    "Model",
)
TOLERANCE = 2e-4  # of the largest number of an output: sizes may be enlarged tenfold by a hook

Draw = random.Random
Batch = dict[str, Tensor]


def build(draw: Draw) -> Any:
    """Make a random model of a random family."""
    name = draw.choice(list(FAMILIES))
    settings: dict[str, Any] = {"seed": draw.randrange(1000)}
    settings["layers"] = draw.choice([1, 2, 3, 4])
    settings["heads"] = draw.choice([1, 2, 4])
    if name == "modernbert":
        settings["hidden_activation"] = draw.choice(["gelu", "silu", "relu"])
    elif name == "distilbert":
        settings["activation"] = draw.choice(["gelu", "relu"])
    else:
        settings["hidden_act"] = draw.choice(["gelu", "gelu_new", "relu", "silu"])
        settings["chunk_size_feed_forward"] = 0
    if name == "longformer":
        settings["attention_window"] = draw.choice([2, 4, 8])
    if name == "albert":
        settings["num_hidden_groups"] = min(2, settings["layers"])
    tasks = [task for task in TASKS if task == "Model" or has_task(name, task)]
    return tiny(name, draw.choice(tasks), **settings)


def _module(draw: Draw, model: Any, kind: type[nn.Module] | None = None) -> nn.Module | None:
    """Choose a module of the encoder: of a kind, or one that holds others."""
    parts = [part for name, part in model.base_model.named_modules() if name]
    fitting = [
        part
        for part in parts
        if (isinstance(part, kind) if kind else any(True for _ in part.children()))
        and not isinstance(part, nn.ModuleList)
    ]
    return draw.choice(fitting) if fitting else None


def scale(_: nn.Module, __: Any, output: Any) -> Any:
    """Change what a module gives, as a hook."""
    if isinstance(output, tuple):
        return (1.5 * output[0], *output[1:])
    return 1.5 * output if isinstance(output, Tensor) else None


def shift(_: nn.Module, args: Any) -> Any:
    """Change what a module is given, as a hook."""
    if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
        return (args[0] + 0.1, *args[1:])
    return None


class Adapted:
    """A low-rank adapter as people write one by hand: `linear.forward = ...`."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        added = x.mean(-1, keepdim=True) * 0.3
        return nn.functional.linear(x, self.linear.weight, self.linear.bias) + added


def hook_on_leaf(draw: Draw, model: Any) -> None:
    part = _module(draw, model, draw.choice([nn.Linear, nn.LayerNorm, nn.Embedding, nn.Dropout]))
    if part is not None:
        part.register_forward_hook(scale)


def hook_before_leaf(draw: Draw, model: Any) -> None:
    part = _module(draw, model, draw.choice([nn.Linear, nn.LayerNorm, nn.Dropout]))
    if part is not None:
        part.register_forward_pre_hook(shift)


def hook_on_container(draw: Draw, model: Any) -> None:
    part = _module(draw, model)
    if part is not None:
        part.register_forward_hook(scale)


def hook_of_gradients(draw: Draw, model: Any) -> None:
    part = _module(draw, model, draw.choice([nn.Linear, nn.LayerNorm]))
    if part is not None:
        part.register_full_backward_hook(lambda _, given, __: tuple(2 * g for g in given))


def patch_leaf(draw: Draw, model: Any) -> None:
    part = _module(draw, model, nn.Linear)
    if isinstance(part, nn.Linear):
        part.forward = Adapted(part)  # type: ignore[method-assign]


def patch_container(draw: Draw, model: Any) -> None:
    part = _module(draw, model)
    if part is not None:
        forward = part.forward
        part.forward = lambda *args, **kwargs: scale(part, None, forward(*args, **kwargs))


def parametrize(draw: Draw, model: Any) -> None:
    part = _module(draw, model, nn.Linear)
    if part is not None:
        nn.utils.parametrizations.weight_norm(part)


def padding_id(draw: Draw, model: Any) -> None:
    model.config.pad_token_id = draw.choice([0, 1, 2])


def dropouts(draw: Draw, model: Any) -> None:
    for part in model.modules():
        if isinstance(part, nn.Dropout) and draw.random() < 0.5:
            part.p = draw.choice([0.0, 0.1, 0.5])


def identity_for_dropout(draw: Draw, model: Any) -> None:
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Dropout) and draw.random() < 0.3:
                setattr(part, name, nn.Identity())


def cut_layers(draw: Draw, model: Any) -> None:
    if model.config.model_type == "albert":
        model.config.num_hidden_layers = draw.choice([1, 2, 3])
        return
    for part in model.base_model.modules():
        for name, child in list(part.named_children()):
            if isinstance(child, nn.ModuleList) and len(child) > 1:
                setattr(part, name, child[: draw.randrange(1, len(child) + 1)])


def enlarge_table(draw: Draw, model: Any) -> None:
    table = model.get_input_embeddings()
    large = nn.Embedding(table.num_embeddings + 9, table.embedding_dim)
    with torch.no_grad():
        large.weight[: table.num_embeddings] = table.weight
    model.set_input_embeddings(large.eval())


def resize_table(draw: Draw, model: Any) -> None:
    model.resize_token_embeddings(60 + draw.randrange(1, 9), mean_resizing=False)


def label_map(draw: Draw, model: Any) -> None:
    model.config.id2label = {number: f"l{number}" for number in range(draw.choice([2, 5]))}


def heads_in_config(draw: Draw, model: Any) -> None:
    for name in ("num_attention_heads", "n_heads"):
        if name in model.config.to_dict():
            setattr(model.config, name, 8)


def rename_model(draw: Draw, model: Any) -> None:
    model.config.name_or_path = "elsewhere"


def freeze(draw: Draw, model: Any) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(draw.random() < 0.6)


def records(draw: Draw, model: Any) -> None:
    model.config.output_hidden_states = True


def checkpointing(draw: Draw, model: Any) -> None:
    if draw.random() < 0.3:
        for part in model.modules():
            if hasattr(part, "gradient_checkpointing"):
                part.gradient_checkpointing = True
                part._gradient_checkpointing_func = torch.utils.checkpoint.checkpoint


def in_double(draw: Draw, model: Any) -> None:
    model.double()


CHANGES: tuple[Callable[[Draw, Any], None], ...] = (
    hook_on_leaf,
    hook_before_leaf,
    hook_on_container,
    hook_of_gradients,
    patch_leaf,
    patch_container,
    parametrize,
    padding_id,
    dropouts,
    identity_for_dropout,
    cut_layers,
    enlarge_table,
    resize_table,
    label_map,
    heads_in_config,
    rename_model,
    freeze,
    records,
    checkpointing,
    in_double,
)


def call(draw: Draw, model: Any) -> Batch:
    """Draw a batch, and how it is put."""
    lengths = [draw.randrange(3, 13) for _ in range(draw.randrange(1, 5))]
    batch = ragged(model, lengths, columns=draw.choice([max(lengths), 12]), seed=draw.randrange(99))
    mask = batch["attention_mask"]
    if draw.random() < 0.3:
        mask[draw.randrange(len(mask)), draw.choice([1, 2])] = 0
    if model.config.model_type == "longformer" and draw.random() < 0.5:
        mask[0, int(mask[0].nonzero()[-1])] = 2  # one marked twice is local in transformers
    elif draw.random() < 0.3:
        batch["attention_mask"] = mask.bool() if model.config.model_type != "big_bird" else mask
    elif draw.random() < 0.3:
        batch["attention_mask"] = mask.float()
    # transformers ignores given positions in RoFormer
    if draw.random() < 0.2 and model.config.model_type not in ("modernbert", "roformer"):
        embeddings = getattr(model.base_model, "embeddings", None)
        start = 3 if hasattr(embeddings, "padding_idx") else 0
        batch["position_ids"] = torch.arange(mask.shape[1])[None].expand(mask.shape) + start
    return batch


def _numbers(output: Any, batch: Batch, grid: bool) -> Tensor:
    """Collect all numbers of an output that belong to real tokens."""
    real = batch["attention_mask"] != 0
    parts = []
    for value in output.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            parts.append(value[real] if value.shape[:2] == real.shape and grid else value)
    return torch.cat([part.flatten().double() for part in parts])


def _differ(mine: Tensor, plain: Tensor) -> bool:
    return bool((mine - plain).abs().max() > TOLERANCE * plain.abs().max().clamp_min(1.0))


def _gradients(model: Any, batch: Batch, grid: bool) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    _numbers(model(**batch), batch, grid).tanh().sum().backward()
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def check(seed: int) -> str:
    """Try one random model: "equal", "refused" or "no model" (transformers cannot run it).

    A difference in fp32 is tried again in double, which tells a fault from rounding. Raises
    `AssertionError` for another answer.
    """
    try:
        return _check(seed)
    except AssertionError:
        return _check(seed, in_double)


def _check(seed: int, *more: Callable[[Draw, Any], None]) -> str:
    draw = random.Random(seed)
    model = build(draw)
    changes = draw.sample(CHANGES, draw.choice([1, 1, 2, 3]))
    batch = call(draw, model)
    for change in (*changes, *more):
        change(draw, model)
    names = [change.__name__ for change in changes]
    where = f"seed {seed}: {type(model).__name__}, {', '.join(names)}"
    grid = type(model).__name__.endswith(("TokenClassification", "Answering", "MaskedLM", "Model"))
    try:
        with torch.no_grad():
            plain = _numbers(model(**batch), batch, grid)
        gradients = _gradients(model, batch, grid)
    except Exception:  # transformers itself cannot run it
        return "no model"
    refusal = ""
    try:
        fewer.attach(model)
        with torch.no_grad():
            mine = _numbers(model(**batch), batch, grid)
        found = _gradients(model, batch, grid)
    except (ValueError, RuntimeError) as error:
        refusal = str(error)
    if refusal:
        assert "fewer" in refusal or "must" in refusal, f"{where}: {refusal}"
        return "refused"
    assert not _differ(mine, plain), f"{where}: answers differ by {(mine - plain).abs().max():.2g}"
    assert found.keys() == gradients.keys(), f"{where}: other parameters have gradients"
    for name, gradient in gradients.items():
        assert not _differ(found[name], gradient), f"{where}: gradients of {name} differ"
    return "equal"


def main() -> None:
    """Run as many models as asked for, and count."""
    first, count = (int(sys.argv[2]) if len(sys.argv) > 2 else 0), int(sys.argv[1])
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            outcomes[check(seed)] += 1
        except AssertionError as error:
            outcomes["differ"] += 1
            print(error)
    print(dict(outcomes))
    sys.exit(outcomes["differ"] > 0)


if __name__ == "__main__":
    main()
