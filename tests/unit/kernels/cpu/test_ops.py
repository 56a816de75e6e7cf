"""Every instruction set against torch, in sizes that are no multiple of anything."""

import threading
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewer.kernels.cpu.library import ACTIVATIONS
from fewer.kernels.cpu.ops import Norm, Weight, embed, feed_forward, linear, rotate
from tests.isas import FLOATS, every_isa

TORCH = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
WIDTHS = [(1, 1), (7, 5), (16, 16), (20, 33), (48, 17), (32, 64), (65, 100)]
ROWS = [0, 1, 2, 13, 33, 300]


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def _assert_close(outputs, expected, isa):
    """Compare with torch; bf16 rounds every factor to 8 bits."""
    assert outputs.dtype is torch.float32
    tolerance = 2e-5 if isa.dtype is torch.float32 else 4e-2
    torch.testing.assert_close(outputs, expected, atol=tolerance, rtol=tolerance)


def _random_norm(width):
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _input_norm(kind, width):
    """Return a norm as torch has it and as the kernels do."""
    if kind == "rms":
        module = nn.RMSNorm(width, eps=1e-4)
        nn.init.normal_(module.weight)
        return module, Norm.rms(module.weight, 1e-4)
    module = nn.LayerNorm(width, bias=kind == "layer")
    nn.init.normal_(module.weight)
    return module, Norm.from_module(module)


@every_isa
@pytest.mark.parametrize(("k", "n"), WIDTHS)
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_a_linear_map_of_any_size_is_that_of_torch(k, n, isa):
    module = nn.Linear(k, n)
    weight = Weight.from_modules([module], isa)
    for rows in ROWS:
        x = torch.randn(rows, k)
        _assert_close(linear(x, weight), module(x), isa)


@every_isa
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_every_activation_is_that_of_torch(activation, isa):
    module = nn.Linear(20, 33)
    x = torch.randn(50, 20) * 10
    outputs = linear(x, Weight.from_modules([module], isa), activation=activation)
    plain = module(x)
    scale = 1 if isa.dtype is torch.float32 else plain.abs().max()
    _assert_close(outputs / scale, TORCH[activation](plain) / scale, isa)


@every_isa
@torch.no_grad()
def test_an_activation_of_large_inputs_is_that_of_torch(isa):
    far = torch.tensor([[0.0], [-0.0], [9.0], [-9.0], [88.0], [-88.0], [1e4], [-1e4], [1e-30]])
    far = far.bfloat16().float()  # exact in bf16
    identity = Weight.from_matrix(torch.ones(1, 1), None, isa)
    for name, activation in TORCH.items():
        error = linear(far, identity, activation=name) - activation(far)
        assert (error.abs() / far.abs().clamp_min(1)).max() < (1e-6 if isa in FLOATS else 1e-4)


@every_isa
@pytest.mark.parametrize("width", [1024, 2048, 4096])
@torch.no_grad()
def test_rows_at_a_distance_of_pages_are_not_confused(width, isa):
    module = nn.Linear(width, 33)
    weight = Weight.from_modules([module], isa)
    x = torch.randn(2 * 17, width)
    _assert_close(linear(x, weight), module(x), isa)
    assert torch.equal(linear(x[:17], weight), linear(x, weight)[:17])


@every_isa
@pytest.mark.parametrize(("bias", "residual", "norm"), list(product([False, True], repeat=3)))
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_bias_residual_and_norm_are_those_of_torch(bias, residual, norm, isa):
    module, last = nn.Linear(20, 37, bias=bias), _random_norm(37)
    x, states = torch.randn(29, 20), torch.randn(29, 50)[:, 3:40]
    outputs = linear(
        x,
        Weight.from_modules([module], isa),
        residual=states if residual else None,
        norm=Norm.from_module(last) if norm else None,
    )
    expected = module(x) + (states if residual else 0)
    _assert_close(outputs, last(expected) if norm else expected, isa)


@every_isa
@torch.no_grad()
def test_rows_may_be_strided_or_transposed_and_of_another_dtype(isa):
    module = nn.Linear(20, 33)
    weight, wide = Weight.from_modules([module], isa), torch.randn(30, 41)
    for x in (wide[:, 7:27], wide[::3, :20], wide.t()[:20, :20], wide[:, 7:27].double()):
        _assert_close(linear(x, weight), module(x.float()), isa)
    for half in (torch.bfloat16, torch.float16):
        _assert_close(
            linear(wide[:, :20].to(half), weight), module(wide[:, :20].to(half).float()), isa
        )


@every_isa
@torch.no_grad()
def test_fused_maps_can_be_split_again(isa):
    maps = [nn.Linear(20, 2 * isa.columns) for _ in range(3)]
    fused, x = Weight.from_modules(maps, isa), torch.randn(17, 20)
    outputs = linear(x, fused)
    _assert_close(outputs, torch.cat([module(x) for module in maps], 1), isa)
    third = 2 * isa.columns
    assert torch.equal(linear(x, fused.take_first(third)), outputs[:, :third])
    assert torch.equal(linear(x, fused.drop_first(third)), outputs[:, third:])
    assert fused.drop_first(third + 1) is None


@every_isa
@pytest.mark.parametrize(("width", "inner"), [(1, 1), (20, 37), (33, 100), (64, 128), (40, 2048)])
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_a_feed_forward_block_is_that_of_torch(width, inner, isa):
    up, down, norm = nn.Linear(width, inner), nn.Linear(inner, width), _random_norm(width)
    packed = (
        Weight.from_modules([up], isa),
        Weight.from_modules([down], isa),
        Norm.from_module(norm),
    )
    for rows in ROWS:
        x = torch.randn(rows, width)
        outputs = feed_forward(x, *packed, "gelu")
        if width > 1:  # a norm over one number magnifies any rounding
            _assert_close(outputs, norm(down(F.gelu(up(x))) + x), isa)
        assert outputs.shape == x.shape


@every_isa
@pytest.mark.parametrize("kind", ["layer", "layer without bias", "rms"])
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_a_norm_of_the_inputs_is_that_of_torch(kind, isa):
    for width in (5, 20, 48):
        module, (norm, packed) = nn.Linear(width, 37), _input_norm(kind, width)
        weight, x = Weight.from_modules([module], isa), torch.randn(29, width + 3)[:, 3:] + 0.5
        _assert_close(linear(x, weight, input_norm=packed), module(norm(x)), isa)


@every_isa
@torch.no_grad()
def test_a_factor_multiplies_the_activations(isa):
    module, factor = nn.Linear(20, 37), torch.randn(29, 50)[:, 3:40]
    x, states = torch.randn(29, 20), torch.randn(29, 37)
    weight = Weight.from_modules([module], isa)
    outputs = linear(x, weight, activation="silu", factor=factor, residual=states)
    _assert_close(outputs, F.silu(module(x)) * factor + states, isa)


@every_isa
@pytest.mark.parametrize(("width", "inner"), [(20, 37), (33, 100), (64, 320)])
@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_a_gated_feed_forward_block_is_that_of_torch_and_equals_its_maps_bit_by_bit(
    width, inner, isa
):
    modules = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)
    up, gate, down = modules
    norm, input_norm = _input_norm("rms", width)
    first, second, last = (Weight.from_modules([module], isa) for module in modules)
    for rows in ROWS:
        x = torch.randn(rows, width)
        states = norm(x)
        outputs = feed_forward(x, first, last, None, "gelu", gate=second, input_norm=input_norm)
        _assert_close(outputs, x + down(F.gelu(up(states)) * gate(states)), isa)
        activations = linear(x, first, input_norm=input_norm, activation="gelu")
        product = linear(x, second, input_norm=input_norm, factor=activations)
        assert torch.equal(outputs, linear(product, last, residual=x))


@every_isa
@pytest.mark.parametrize("width", [2, 6, 32, 50, 64])
@torch.no_grad()
def test_heads_are_rotated_in_place_and_the_columns_after_them_are_not(width, isa, threads):
    position = torch.tensor([0, 3, 9, 3, 1])
    angles = torch.randn(10, width // 2)
    cos, sin = (table.repeat(1, 2) for table in (angles.cos(), angles.sin()))
    for dtype in {torch.float32, isa.attention_dtype}:
        fused = torch.randn(5, 3 * width + 4).to(dtype)
        x, y = fused[:, : 3 * width].float().unflatten(1, (3, -1)).chunk(2, -1)
        c, s = (table[position, None, : width // 2] for table in (cos, sin))
        expected = torch.cat((x * c - y * s, y * c + x * s), -1).flatten(1)
        last, single = fused[:, 3 * width :].clone(), fused[2:3].clone()
        rotate(fused[:, : 3 * width], width, (cos, sin), position, isa)
        tolerance = 1e-6 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(
            fused[:, : 3 * width].float(), expected, atol=tolerance, rtol=tolerance
        )
        assert torch.equal(fused[:, 3 * width :], last)
        torch.set_num_threads(1)
        rotate(single[:, : 3 * width], width, (cos, sin), position[2:3], isa)
        assert torch.equal(single, fused[2:3])
        torch.set_num_threads(threads)


@every_isa
def test_positions_outside_the_tables_are_refused(isa):
    tables = torch.zeros(10, 4), torch.zeros(10, 4)
    for position in ([0, 10], [-1, 0], [0]):
        with pytest.raises(ValueError, match="position must have 2 entries"):
            rotate(torch.zeros(2, 8), 4, tables, torch.tensor(position), isa)
    with pytest.raises(ValueError, match="cos must have a width of 8"):
        rotate(torch.zeros(2, 8), 8, tables, torch.tensor([0, 1]), isa)
    with pytest.raises(ValueError, match="float16"):
        rotate(torch.zeros(2, 8).half(), 4, tables, torch.tensor([0, 1]), isa)


@every_isa
@pytest.mark.parametrize("width", [1, 5, 16, 37, 64])
@torch.no_grad()
def test_embeddings_are_those_of_torch(width, isa):
    tables = [nn.Embedding(rows, width) for rows in (50, 2, 40)]
    norm = _random_norm(width)
    for rows in ROWS:
        ids = [torch.randint(table.num_embeddings, (rows,)) for table in tables]
        outputs = embed(ids, [table.weight for table in tables], Norm.from_module(norm), isa)
        expected = tables[0](ids[0]) + tables[1](ids[1]) + tables[2](ids[2])
        if width > 1:
            _assert_close(outputs, norm(expected), isa)
        half = embed(
            [ids[0].int(), None, None], [tables[0].weight, None, None], Norm.from_module(norm), isa
        )
        assert half.shape == (rows, width)


@every_isa
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_nan_fills_its_row_and_no_other(activation, isa):
    x = torch.randn(40, 20)
    x[3, 7] = torch.nan
    outputs = linear(x, Weight.from_modules([nn.Linear(20, 33)], isa), activation=activation)
    assert outputs[3].isnan().all()
    assert outputs.isnan().any(1).sum() == 1


@every_isa
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch_bit_by_bit(isa, threads):
    torch.set_num_threads(1)
    up, down, norm = nn.Linear(20, 70), nn.Linear(70, 20), _random_norm(20)
    wide, narrow = Weight.from_modules([up], isa), Weight.from_modules([down], isa)
    x = torch.randn(300, 20)

    gate, (_, rms) = Weight.from_modules([nn.Linear(20, 70)], isa), _input_norm("rms", 20)

    def run(rows):
        return (
            feed_forward(rows, wide, narrow, Norm.from_module(norm), "gelu"),
            feed_forward(rows, wide, narrow, None, "silu", gate=gate, input_norm=rms),
            linear(rows, wide, input_norm=rms),
        )

    together = run(x)
    torch.set_num_threads(threads)
    for start, end in [(0, 1), (1, 2), (17, 18), (5, 40), (250, 300), (0, 299)]:
        for outputs, expected in zip(run(x[start:end]), together, strict=True):
            assert torch.equal(outputs, expected[start:end])


@every_isa
@torch.no_grad()
def test_wrong_widths_are_refused_before_memory_is_read(isa):
    weight, norm = Weight.from_modules([nn.Linear(20, 33)], isa), Norm.from_module(nn.LayerNorm(20))
    with pytest.raises(ValueError, match=r"x must have a width of 20; got shape \(4, 19\)"):
        linear(torch.zeros(4, 19), weight)
    with pytest.raises(ValueError, match="residual must"):
        linear(torch.zeros(4, 20), weight, residual=torch.zeros(4, 20))
    with pytest.raises(ValueError, match="norm must"):
        linear(torch.zeros(4, 20), weight, norm=norm)
    with pytest.raises(ValueError, match="input_norm must"):
        linear(torch.zeros(4, 20), weight, input_norm=Norm.from_module(nn.LayerNorm(33)))
    with pytest.raises(ValueError, match="factor must"):
        linear(torch.zeros(4, 20), weight, factor=torch.zeros(4, 20))
    with pytest.raises(ValueError, match="x and norm must have a width of 33"):
        feed_forward(torch.zeros(4, 20), weight, weight, norm, "gelu")
    down = Weight.from_modules([nn.Linear(33, 20)], isa)
    narrow = Weight.from_modules([nn.Linear(20, 32)], isa)
    with pytest.raises(ValueError, match="must take the 32 inner states"):
        feed_forward(torch.zeros(4, 20), weight, down, norm, "gelu", gate=narrow)
    with pytest.raises(ValueError, match="x and norm must have a width of 33"):
        feed_forward(torch.zeros(4, 20), weight, down, norm, "gelu", gate=down)
    with pytest.raises(ValueError, match="tables and norm must"):
        embed([torch.zeros(1).long()], [torch.zeros(5, 16)], norm, isa)


@every_isa
@torch.no_grad()
def test_threads_of_python_run_in_parallel(isa):
    module = nn.Linear(64, 300)
    weight, outputs = Weight.from_modules([module], isa), {}

    def work(number):
        x = torch.full((200, 64), float(number))
        for _ in range(5):
            outputs[number] = linear(x, weight)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, rows in outputs.items():
        _assert_close(rows / 4, module(torch.full((200, 64), float(number))) / 4, isa)
