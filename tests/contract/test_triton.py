"""Laws of the Triton kernels: on a GPU where there is one, else in Triton's interpreter.

Small blocks make several of a few rows, so that short texts meet every branch.
"""

from dataclasses import fields, replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fewer.kernels import AttentionCall
from fewer.kernels.call import masked_score
from fewer.kernels.reference import attend as attend_reference
from fewer.kernels.triton.attention import attend
from fewer.kernels.triton.config import Config
from fewer.kernels.triton.received import received
from fewer.kernels.triton.support import supports, unavailable_reason
from tests.calls import EXTRAS, assert_same_output, draw_call, every_size, every_triton_extra
from tests.contract.test_patterns import PATTERNS
from tests.contract.test_patterns import call_of as draw_sparse_call
from tests.rounding import ROUNDING, assert_same

SMALL = Config(16, 16, 4, 2)
UNBUFFERED = replace(SMALL, buffered=16)  # longer texts are computed by `received`
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
HALVES = [
    torch.float16,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(not HAS_GPU, reason="Triton's interpreter cannot multiply bf16"),
    ),
]

pytestmark = pytest.mark.skipif(
    unavailable_reason() is not None, reason=f"Triton kernels: {unavailable_reason()}"
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def _to_device(call):
    moved = {
        field.name: value.to(DEVICE)
        for field in fields(call)
        if isinstance(value := getattr(call, field.name), torch.Tensor)
    }
    return replace(call, **moved)


def _attend(call, config=SMALL):
    call = _to_device(call)
    assert supports(call)
    output = attend(call, config=config)
    return replace(
        output,
        **{
            field.name: value.cpu()
            for field in fields(output)
            if isinstance(value := getattr(output, field.name), torch.Tensor)
        },
    )


def _received(call, config=SMALL):
    logsumexp = attend_reference(replace(call, needs_logsumexp=True)).logsumexp
    return received(_to_device(call), logsumexp.to(DEVICE), config=config).cpu()


def _assert_equals_reference(call, config=SMALL):
    wanted = attend_reference(call)
    rounding = ROUNDING[call.q.dtype]
    assert_same_output(_attend(call, config), wanted, rounding)
    if wanted.received is not None and config is not UNBUFFERED:
        assert_same(_received(call, config), wanted.received, rounding)


LENGTHS = (36, 17, 16)


def _draw_long(lengths=LENGTHS, heads=1, width=16, dtype=torch.float32, **extras):
    """Draw a call of texts of up to three blocks, whose positions have gaps."""
    cu = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    position = torch.cat([torch.randperm(2 * n)[:n].sort().values for n in lengths])
    q, k, v = torch.randn(3, sum(lengths), heads, width).to(dtype)
    gate = torch.rand(sum(lengths)).masked_fill(torch.rand(sum(lengths)) < 0.1, 0.0)
    gate[cu[:-1]] = 1.0
    call = AttentionCall(
        *(q, k, v, cu, cu, position, position),
        gate=gate,
        query_weight=torch.rand(sum(lengths)),
        needs_received=True,
        needs_logsumexp=True,
    )
    return replace(call, **extras)


def _select(call, text):
    """Select one text of a call."""
    rows_q, rows_k = (slice(*cu[text : text + 2].tolist()) for cu in (call.cu_q, call.cu_k))
    rows = {
        **dict.fromkeys(("q", "position_q", "query_weight"), rows_q),
        **dict.fromkeys(("k", "v", "position_k", "gate", "window_exempt"), rows_k),
    }
    selected = {
        name: getattr(call, name)[part]
        for name, part in rows.items()
        if getattr(call, name) is not None
    }
    cu_q, cu_k = (torch.tensor([0, part.stop - part.start]) for part in (rows_q, rows_k))
    return replace(call, **selected, cu_q=cu_q, cu_k=cu_k), rows_q, rows_k


def _exempt(call, count):
    """Let the first keys of each text be visible from any distance."""
    place = torch.cat([torch.arange(n) for n in call.cu_k.diff().tolist()])
    return replace(call, window_exempt=place < count)


@every_size
def test_it_equals_the_reference(sizes):
    _assert_equals_reference(draw_call(sizes, EXTRAS["everything"]))


@every_triton_extra
def test_every_option_equals_the_reference(extras):
    _assert_equals_reference(draw_call("fewer queries", EXTRAS[extras]))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("window", [None, 12])
def test_half_precision_agrees(window, dtype):
    _assert_equals_reference(_draw_long(window=window, gate=None, dtype=dtype))


@pytest.mark.parametrize("width", [1, 16, 20, 33, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_heads_of_every_size_agree(width, dtype):
    call = draw_call("one text", EXTRAS["everything"], 3, width, dtype)
    _assert_equals_reference(call, config=None)


@pytest.mark.parametrize(
    ("window", "exempt"),
    [(None, 0), (0, 0), (12, 1), (5, 16), (2**40, 0)],
)
@pytest.mark.parametrize("config", [SMALL, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_texts_of_several_blocks_agree(config, window, exempt):
    call = _draw_long(window=window, gate=None)
    _assert_equals_reference(_exempt(call, exempt) if exempt else call, config)


@pytest.mark.parametrize("config", [SMALL, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_gates_of_several_blocks_agree(config):
    _assert_equals_reference(_exempt(_draw_long(window=25, query_weight=None), 1), config)


def test_texts_of_several_blocks_agree_with_the_blocks_of_inference():
    call = _draw_long((150, 64, 65), width=32, window=40, gate=None, dtype=torch.float16)
    _assert_equals_reference(call, None)


def test_fewer_queries_than_keys_agree_over_several_blocks():
    call = _draw_long((50, 40, 20), window=15, gate=None)
    rows = torch.rand(len(call.q)) < 0.3
    counts = [int(part.sum()) for part in rows.split(call.cu_q.diff().tolist())]
    frozen = replace(
        call,
        q=call.q[rows],
        position_q=call.position_q[rows],
        query_weight=call.query_weight[rows],
        cu_q=torch.nn.functional.pad(torch.tensor(counts).cumsum(0), (1, 0)),
    )
    _assert_equals_reference(frozen)


@pytest.mark.parametrize("config", [SMALL, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_more_queries_than_keys_agree(config):
    call = _draw_long()
    rows = torch.tensor([*range(10), 36, *range(53, 63)])
    keys = {name: getattr(call, name)[rows] for name in ("k", "v", "position_k", "gate")}
    _assert_equals_reference(replace(call, **keys, cu_k=torch.tensor([0, 10, 11, 21])), config)


def test_queries_without_keys_agree():
    call = _draw_long()
    keys = {name: getattr(call, name)[:36] for name in ("k", "v", "position_k", "gate")}
    call = replace(call, **keys, cu_k=torch.tensor([0, 36, 36, 36]))
    _assert_equals_reference(call)
    _assert_equals_reference(replace(call, needs_received=False))


@pytest.mark.parametrize("config", [SMALL, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_a_text_is_the_same_to_the_last_bit_in_every_batch(config):
    call = _exempt(_draw_long(window=12), 2)
    together = _attend(call, config)
    from_logsumexp = _received(call, config)
    for text, max_length in enumerate((None, 17, 1000)):
        single, rows_q, rows_k = _select(call, text)
        alone = _attend(replace(single, max_length=max_length), config)
        assert torch.equal(alone.context, together.context[rows_q])
        assert torch.equal(alone.logsumexp, together.logsumexp[rows_q])
        assert torch.equal(alone.received, together.received[rows_k])
        assert torch.equal(_received(single, config), from_logsumexp[rows_k])


def test_every_run_has_the_same_bits():
    call = _draw_long(window=20)
    outputs = [_attend(call) for _ in range(5 if HAS_GPU else 2)]
    for output in outputs[1:]:
        assert torch.equal(output.received, outputs[0].received)
        assert torch.equal(output.context, outputs[0].context)
    assert torch.equal(_received(call), _received(call))


def test_context_has_the_same_bits_with_and_without_evidence():
    call = _draw_long(window=20)
    plain = _attend(replace(call, needs_received=False, needs_logsumexp=False))
    assert plain.received is plain.logsumexp is None
    assert torch.equal(plain.context, _attend(call).context)


def test_a_score_that_is_no_number_stays_in_its_text_and_head():
    call = _draw_long(heads=2, gate=None)
    call.k[[3, 60], 0, 3] = torch.nan  # in texts of three blocks and of one
    output, from_logsumexp = _attend(call), _received(call)
    text = torch.repeat_interleave(torch.arange(3), call.cu_q.diff())
    is_hit = (text == 0) | (text == 2)
    assert output.context[is_hit, :16].isnan().all()
    assert not output.context[is_hit, 16:].isnan().any()
    assert not output.context[~is_hit].isnan().any()
    for sums in (output.received, from_logsumexp):
        assert torch.equal(sums.isnan(), is_hit)


@pytest.mark.parametrize("config", [SMALL, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_rows_of_masked_pairs_are_finite(config):
    closed = _draw_long(gate=torch.zeros(69))
    far = replace(_draw_long(window=1), position_k=_draw_long().position_k + 1000)
    for call in (closed, far):
        output = _attend(call, config)
        assert torch.isfinite(output.context).all()
        assert torch.isfinite(output.received).all()
        assert torch.isfinite(output.logsumexp).all()
        assert (output.logsumexp < masked_score(torch.float32) / 2).all()
    assert _received(far, config).tolist() == [0.0] * 69


def test_attention_received_sums_to_one():
    call = _draw_long()
    sums = [part.sum().item() for part in _attend(call).received.split(LENGTHS)]
    assert sums == pytest.approx([1.0] * 3, abs=1e-5)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 1.01 * masked_score(torch.float32)])
def test_a_row_without_a_key_gives_nothing(value):
    call = _draw_long(query_weight=None)
    logsumexp = attend_reference(call).logsumexp
    is_frozen = torch.rand(len(call.q)) < 0.4
    masked = logsumexp.masked_fill(is_frozen[:, None], value)
    found = received(_to_device(call), masked.to(DEVICE), config=SMALL).cpu()
    weighted = replace(call, query_weight=(~is_frozen).float())
    counts = [part.float().mean() for part in (~is_frozen).split(LENGTHS)]
    share = torch.stack(counts).repeat_interleave(call.cu_k.diff())
    assert_same(found, attend_reference(weighted).received * share)


def test_logsumexp_may_have_the_strides_of_flash_attention():
    call = _to_device(draw_call("ragged", EXTRAS["everything"]))
    logsumexp = attend(call).logsumexp
    transposed = logsumexp.T.contiguous().T
    assert transposed.stride() != logsumexp.stride()
    assert torch.equal(received(call, transposed), received(call, logsumexp))


@pytest.mark.parametrize("order", ["rows", "heads", "columns"])
def test_states_of_any_strides_agree(order):
    call = draw_call("ragged", EXTRAS["everything"])
    tokens, heads, width = call.q.shape
    if order == "rows":  # slices of a fused projection
        fused = torch.randn(tokens, 3, heads, width)
        q, k, v = fused.unbind(1)
    elif order == "heads":
        q, k, v = torch.randn(3, heads, tokens, width).transpose(1, 2).unbind()
    else:
        q, k, v = torch.randn(3, width, tokens, heads).permute(0, 2, 3, 1).unbind()
    _assert_equals_reference(replace(call, q=q, k=k, v=v))


@pytest.mark.parametrize("strides", [(2**24, 16, 1), (16, 2**30 + 16, 1)], ids=["rows", "heads"])
def test_states_beyond_two_to_the_31_numbers_are_read(strides):
    cu, shape = torch.tensor([130, 140]), (140, 3, 16)
    near = torch.randn(shape, dtype=torch.float16)
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    assert last > 2**31
    far = torch.empty(last + 1, dtype=torch.float16, device=DEVICE)  # mostly untouched
    far = far.as_strided(shape, strides)
    far[130:] = near[130:].to(DEVICE)
    call = AttentionCall(near, near, near, cu, cu, needs_received=True, needs_logsumexp=True)
    wanted = attend_reference(call)
    call = replace(_to_device(call), q=far, k=far, v=far)
    output = attend(call, config=SMALL)
    assert_same(output.context[130:].cpu(), wanted.context)
    assert_same(output.received[130:].cpu(), wanted.received, 1e-3)
    from_logsumexp = received(call, output.logsumexp, config=SMALL)
    assert_same(from_logsumexp[130:].cpu(), wanted.received, 1e-3)


@pytest.mark.skipif(HAS_GPU, reason="the call is drawn on the CPU")
@pytest.mark.parametrize("pattern", ["window", "longformer", "blocks"])
def test_sparse_patterns_agree(pattern):
    call = draw_sparse_call(PATTERNS[pattern], lengths=(20, 3))
    assert supports(call)
    assert_same_output(attend(call, config=SMALL), attend_reference(call), 1e-5)


def test_calls_that_need_gradients_get_them():
    call = draw_call("ragged", EXTRAS["scored"])
    with torch.enable_grad():
        assert not supports(call)
        output = attend(call)
        (gradient,) = torch.autograd.grad(output.received.square().sum(), call.k)
        wanted = attend_reference(call).received.square().sum()
        assert_same(gradient, torch.autograd.grad(wanted, call.k)[0], 1e-4)


def test_scores_alone_of_a_call_that_is_not_supported_are_refused():
    call = draw_call("ragged", EXTRAS["scored"])
    with pytest.raises(ValueError, match="dropout"):
        received(replace(call, dropout=0.1), torch.zeros(21, 2))
    sparse = draw_sparse_call(PATTERNS["blocks"], lengths=(9,))
    with pytest.raises(ValueError, match="sparse"):
        received(sparse, torch.zeros(len(sparse.q), 2))


def test_scores_of_a_sliding_window_need_no_chunks():
    call = draw_sparse_call(PATTERNS["window"], lengths=(20, 3))
    wanted = attend_reference(call)
    assert_same(received(call, wanted.logsumexp, config=SMALL), wanted.received)
