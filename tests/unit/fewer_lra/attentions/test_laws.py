"""What holds of all attentions of the arena, each law written once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewer_lra.attentions import ATTENTIONS, AttentionSpec, build
from tests.unit.fewer_lra.attentions.cases import LENGTHS, LONGEST, Batch, batch, small, spec

NAMES = [*ATTENTIONS]
QUADRATIC = {"softmax", "synthesizer"}


def assert_same_where_real(got: Tensor, wanted: Tensor, given: Batch) -> None:
    torch.testing.assert_close(got[given.real], wanted[given.real])


def test_there_are_eleven_in_the_order_of_the_papers_table() -> None:
    table = "softmax local sparse longformer linformer reformer sinkhorn synthesizer bigbird"
    assert [*table.split(), "linear", "performer"] == NAMES


@pytest.mark.parametrize("value", [0.0, 1e4, -3.0])
@pytest.mark.parametrize("name", NAMES)
def test_what_stands_at_padding_changes_nothing(name: str, value: float) -> None:
    attention, given = small(name), batch()
    wanted, got = attention(*given), attention(*given.padded_with(value))
    assert_same_where_real(got, wanted, given)
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("name", NAMES)
def test_more_columns_of_padding_change_nothing(name: str) -> None:
    attention, given = small(name), batch(LENGTHS[1:], columns=LONGEST)
    wanted = attention(*given)
    for columns in (17, 18, 20, 23):
        trimmed = given.of(slice(None), columns)
        assert_same_where_real(attention(*trimmed), wanted[:, :, :columns], trimmed)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_alone_is_read_as_in_a_batch(name: str) -> None:
    attention, given = small(name), batch()
    together = attention(*given)
    for text, length in enumerate(LENGTHS):
        alone = given.of([text], length)
        assert_same_where_real(attention(*alone), together[[text], :, :length], alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_another_order_gives_its_contexts_in_that_order(name: str) -> None:
    attention, given = small(name), batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = given.of(order)
    assert_same_where_real(attention(*turned), attention(*given)[order], turned)


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_one_token_give_back_their_value_and_finite_gradients(name: str) -> None:
    attention, given = small(name), batch([1, 1, 1], columns=7)
    sides = [side.requires_grad_() for side in given[:3]]
    context = attention(*sides, given.hidden, given.mask)
    if name not in {"linformer", "sinkhorn", "longformer", "linear"}:
        assert_same_where_real(context, given.v, given)
    assert torch.isfinite(context).all()
    context[given.real].square().sum().backward()
    assert all(torch.isfinite(side.grad).all() for side in sides if side.grad is not None)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_and_all_that_is_read(name: str, training: bool) -> None:
    attention, given = small(name).train(training), batch()
    read = [given[:3]["qkv".index(side)].requires_grad_() for side in attention.inputs]
    attention(*given)[given.real].square().sum().backward()
    for tensor in (*read, *attention.parameters()):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_padding_gets_no_gradient(name: str) -> None:
    attention, given = small(name), batch()
    read = [given[:3]["qkv".index(side)].requires_grad_() for side in attention.inputs]
    attention(*given)[given.real].square().sum().backward()
    for side in read:
        assert side.grad[~given.real].abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_said_to_be_read_is_not(name: str) -> None:
    attention, given = small(name), batch()
    sides = [given[at] if side in attention.inputs else -given[at] for at, side in enumerate("qkv")]
    other = Batch(*sides, given.hidden, given.mask)
    assert torch.equal(attention(*other)[given.real], attention(*given)[given.real])


@pytest.mark.parametrize("name", NAMES)
def test_two_layers_made_alike_read_alike_after_a_load(name: str) -> None:
    first, second, given = small(name), small(name), batch()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*given)[given.real], second(*given)[given.real])


@pytest.mark.parametrize("name", ["bigbird", "performer", "reformer"])
def test_layers_draw_different_random_numbers(name: str) -> None:
    options = {"bigbird": {"block": 1}, "performer": {"features": 4}}.get(name, {"chunk": 2})
    first, second = (build(name, spec(layer=layer), options).eval() for layer in (0, 1))
    given = batch()
    assert (first(*given) - second(*given))[given.real].abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"linear", "performer"}])
def test_probabilities_are_dropped_while_training_only(name: str) -> None:
    options = {"noise": 0.0} if name == "sinkhorn" else {}
    attention = build(name, spec(dropout=0.5), options)
    given = batch([24, 20])
    assert not torch.equal(attention(*given), attention(*given))
    attention.eval()
    assert torch.equal(attention(*given), attention(*given))


class Largest(TorchDispatchMode):
    """Sees how many elements the largest tensor has that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, Tensor) and 0 not in one.stride():  # expanded ones take no memory
                self.elements = max(self.elements, one.numel())
        return made


def largest(name: str, length: int) -> int:
    sizes = AttentionSpec(heads=1, width=4, hidden=4, max_length=length)
    own = {"reformer": {"buckets": 8}, "performer": {"features": 16}}
    own["sparse"] = {"block": int(length**0.5), "summary": 1}  # its cost is n * (b + n c / b)
    options = own.get(name, {})
    attention = build(name, sizes, options).eval()
    q, k, v = torch.randn(3, 1, 1, length, 4)
    hidden, mask = torch.randn(1, length, 4), torch.ones(1, length, dtype=torch.bool)
    with Largest() as seen, torch.no_grad():
        attention(q, k, v, hidden, mask)
    return seen.elements


@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUADRATIC])
def test_memory_does_not_grow_with_the_square_of_the_length(name: str) -> None:
    assert largest(name, 4096) < 3 * largest(name, 2048)
