"""Law 8 for patterns: blocked attention equals the dense mask, gradients included."""

from dataclasses import replace

import pytest
import torch

from fewer.kernels import KERNELS, AttentionCall, Pattern
from fewer.kernels.sparse import SparseLayout, TokenPositions, find_global_tokens
from tests.isas import every_attention_isa, pretend
from tests.rounding import assert_same

LENGTHS = (1, 2, 37, 150, 64, 201)
HEADS, WIDTH = 2, 4
PATTERNS = {
    "window": Pattern(3),
    "window of nothing": Pattern(0),
    "window beyond the text": Pattern(500),
    "longformer": Pattern(70, global_tokens="first"),
    "question": Pattern(5, global_tokens="question"),
    "blocks": Pattern(0, block=16),
    "sparse transformer": Pattern(0, block=16, summary=3, global_tokens="first"),
    "bigbird": Pattern(1, block=8, random=3, seed=1, global_tokens="ends"),
    "bigbird, short texts in full": Pattern(
        1, block=8, random=2, global_tokens="ends", full_up_to=64
    ),
    "blocks of one token": Pattern(1, random=2, global_tokens="ends"),
    "more blocks than there are": Pattern(0, block=64, random=9, global_tokens="ends"),
}
# Triton's interpreter is slow: tests/gpu has a part of the patterns for the kernel of GPUs
OTHERS = [name for name in KERNELS if name not in ("reference", "gpu")]
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)
every_other_kernel = pytest.mark.parametrize("kernel", OTHERS)


def call_of(pattern, *, lengths=LENGTHS, leave=0.2, rest=0.3, global_kv=False, extras=True, seed=0):
    """Draw a call of texts that some tokens have left, and in which some rest."""
    torch.manual_seed(seed)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    column = torch.cat([torch.arange(n) for n in lengths])
    stays = (torch.rand(len(column)) >= leave) | (column == 0)
    sequence, column = sequence[stays], column[stays]
    original_lengths = torch.tensor(lengths)
    question = column <= 3
    keys = TokenPositions(
        sequence, column, find_global_tokens(pattern, sequence, column, original_lengths, question)
    )
    rows = (torch.rand(len(column)) >= rest).nonzero().squeeze(1)
    total, queries = len(column), len(rows)

    def draw(n):
        return torch.randn(n, HEADS, WIDTH, requires_grad=True)

    kv = (draw(total), draw(total)) if global_kv else None
    sparse = SparseLayout(pattern, keys.select(rows), keys, original_lengths, HEADS, kv)
    gate = (0.1 + 0.9 * torch.rand(total)).masked_fill(torch.rand(total) < 0.2, 0.0)
    gate[rows] = gate[rows].clamp_min(0.05)  # a query always has its own key
    return AttentionCall(
        q=draw(queries),
        k=draw(total),
        v=draw(total),
        cu_q=_offsets(sequence[rows], len(lengths)),
        cu_k=_offsets(sequence, len(lengths)),
        sparse=sparse,
        gate=gate.requires_grad_() if extras else None,
        query_weight=torch.rand(queries).requires_grad_() if extras else None,
        needs_received=extras,
        needs_logsumexp=extras,
    )


def _offsets(sequence, texts):
    counts = torch.bincount(sequence, minlength=texts)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _inputs(call):
    global_kv = call.sparse.global_kv or ()
    inputs = (call.q, call.k, call.v, call.gate, call.query_weight, *global_kv)
    return [values for values in inputs if values is not None]


def _assert_same(one, other, tolerance=1e-5):
    assert_same(one.context, other.context, tolerance)
    for name in ("received", "logsumexp"):
        mine, wanted = getattr(one, name), getattr(other, name)
        assert (mine is None) == (wanted is None)
        if mine is not None:
            assert_same(mine, wanted, tolerance)


@pytest.mark.parametrize("global_kv", [False, True], ids=["", "global_kv"])
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "extras"])
@every_pattern
@every_other_kernel
def test_blocked_equals_the_dense_mask(kernel, pattern, extras, global_kv):
    call = call_of(PATTERNS[pattern], extras=extras, global_kv=global_kv)
    with torch.no_grad():
        _assert_same(KERNELS[kernel](call), KERNELS["reference"](call))


@every_attention_isa
@every_pattern
def test_every_instruction_set_equals_the_dense_mask(monkeypatch, isa, pattern):
    pretend(monkeypatch, isa)
    call = call_of(PATTERNS[pattern])
    halved = replace(
        call, **{name: getattr(call, name).detach().to(isa.dtype) for name in ("q", "k", "v")}
    )
    with torch.inference_mode():
        _assert_same(
            KERNELS["native"](halved),
            KERNELS["reference"](halved),
            1e-5 if isa.dtype is torch.float32 else 3e-2,
        )


@pytest.mark.parametrize("global_kv", [False, True], ids=["", "global_kv"])
@every_pattern
@every_other_kernel
def test_gradients_equal_those_of_the_dense_mask(kernel, pattern, global_kv):
    call = call_of(PATTERNS[pattern], global_kv=global_kv)
    found = []
    for name in (kernel, "reference"):
        attended = KERNELS[name](call)
        torch.manual_seed(1)
        wants = [torch.randn_like(own) for own in (attended.context, attended.received)]
        loss = (attended.context * wants[0]).sum() + (attended.received * wants[1]).sum()
        loss = loss + (attended.logsumexp**2).sum()
        found.append(torch.autograd.grad(loss, _inputs(call), materialize_grads=True))
    for mine, wanted in zip(*found, strict=True):
        assert_same(mine, wanted, 1e-4)


@every_pattern
@every_other_kernel
def test_a_text_is_read_alone_as_in_company(kernel, pattern):
    whole = call_of(PATTERNS[pattern], leave=0.0, rest=0.0, extras=False)
    with torch.no_grad():
        together = KERNELS[kernel](whole).context
    for text, n in enumerate(LENGTHS):
        rows = slice(int(whole.cu_k[text]), int(whole.cu_k[text + 1]))
        places = TokenPositions(
            torch.zeros(n, dtype=torch.long),
            whole.sparse.keys.column[rows],
            whole.sparse.keys.is_global[rows],
        )
        sparse = SparseLayout(whole.sparse.pattern, places, places, torch.tensor([n]), HEADS)
        cu = torch.tensor([0, n])
        own = AttentionCall(whole.q[rows], whole.k[rows], whole.v[rows], cu, cu, sparse=sparse)
        with torch.no_grad():
            alone = KERNELS[kernel](own).context
        assert_same(alone, together[rows])


@pytest.mark.parametrize("pattern", [Pattern(40, global_tokens="first"), PATTERNS["bigbird"]])
def test_cost_grows_with_the_length_not_its_square(pattern):
    pairs = []
    for n in (1000, 2000, 4000):
        call = call_of(pattern, lengths=(n,), leave=0.0, rest=0.0, extras=False)
        pairs.append(float(call.sparse.chunks.count_pairs(None, None, 1)))
    assert pairs[2] - pairs[1] == pytest.approx(2 * (pairs[1] - pairs[0]), rel=0.02)
    assert pairs[2] < 4000**2 / 10


@every_pattern
def test_pairs_are_those_that_the_chunks_multiply(pattern):
    sparse = call_of(PATTERNS[pattern], global_kv=True).sparse
    chunks = sparse.chunks
    multiplied = torch.zeros(len(LENGTHS))
    for number, text in enumerate(chunks.text.tolist()):
        queries, keys = (int(cu[number + 1] - cu[number]) for cu in (chunks.cu_q, chunks.cu_k))
        multiplied[text] += queries * keys / chunks.rows_per_token
    pairs = chunks.count_pairs(None, None, len(LENGTHS))
    torch.testing.assert_close(pairs, multiplied)
    assert chunks.queries.sort().values.tolist() == list(
        range(len(sparse.queries.sequence) * chunks.rows_per_token)
    )
    half = chunks.count_pairs(
        torch.full((len(sparse.queries.sequence),), 0.5),
        torch.full((len(sparse.keys.sequence),), 0.5),
        len(LENGTHS),
    )
    torch.testing.assert_close(half, pairs / 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_masked_as_fp32(dtype):
    call = call_of(PATTERNS["longformer"], extras=False)
    lower = {name: getattr(call, name).detach().to(dtype) for name in ("q", "k", "v")}
    with torch.no_grad():
        found = KERNELS["sdpa"](replace(call, **lower)).context
        wanted = KERNELS["reference"](call).context
    assert found.dtype is dtype
    assert_same(found.float(), wanted, 3e-2)
