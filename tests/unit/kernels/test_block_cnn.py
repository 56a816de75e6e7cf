import pytest
import torch

from fewer.core.cost import ModelSpec
from fewer.core.packed import Packed
from fewer.kernels import Pattern
from fewer.kernels.block_cnn import BlockCnnCall, block_cnn_logits, supports
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.blocks import SIGHTS, Blocks, Sight, paired
from tests.isas import every_isa, needs_kernels, pretend

LENGTHS = (1, 70, 33, 2, 128)


def _tokens(heads, width, gated):
    """Texts with holes, some keys weighted by a gate, some masked."""
    columns = max(LENGTHS)
    slots = [row * columns + column for row, n in enumerate(LENGTHS) for column in range(n)]
    slot = torch.tensor(slots)
    slot = slot[(torch.rand(len(slots)) < 0.8) | (slot % columns == 0)]
    sequence = slot // columns
    counts = torch.bincount(sequence, minlength=len(LENGTHS))
    total = len(slot)
    gate = torch.rand(total).masked_fill(torch.rand(total) < 0.2, 0.0) if gated else None
    return Packed(
        hidden=torch.zeros(total, heads * width),
        sequence=sequence,
        position=slot % columns,
        slot=slot,
        protected=slot % columns == 0,
        cu=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        extent=torch.tensor(LENGTHS),
        grid=(len(LENGTHS), columns),
        gate=gate,
        query=torch.randn(total, heads, width),
        key=torch.randn(total, heads, width),
        logsumexp=2 + torch.rand(total, heads).masked_fill(torch.rand(total, 1) < 0.1, torch.inf),
    )


def _predictor(maps, heads, size):
    torch.manual_seed(1)
    shape = ModelSpec(1, heads, heads, 0.0, ())
    predictor = AttentionPredictor(Sight(maps, None), size, shape).eval()
    for module in predictor:
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return predictor


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sees", [name for name, sight in SIGHTS.items() if sight.pairs])
@pytest.mark.parametrize(
    ("heads", "width", "size"), [(12, 32, 32), (2, 4, 4), (3, 8, 16), (16, 2, 20)]
)
@every_isa
@torch.inference_mode()
def test_the_compiled_predictor_equals_the_network(
    isa, heads, width, size, sees, gated, monkeypatch
):
    pretend(monkeypatch, isa)
    torch.manual_seed(0)
    tokens, sight = _tokens(heads, width, gated), SIGHTS[sees]
    blocks = Blocks.of(tokens, size)
    predictor = _predictor(sight.count, heads, size)
    pairs = sight.pairs(blocks, torch.arange(len(blocks.number)).flip(0))
    evidence = tokens.query, tokens.key, tokens.logsumexp, tokens.gate
    logits = block_cnn_logits(BlockCnnCall(*evidence, blocks.rows, pairs, *predictor.folded()))
    torch.testing.assert_close(logits, predictor(paired(blocks, pairs)), atol=1e-4, rtol=1e-4)
    low = tokens.but(query=tokens.query.bfloat16(), key=tokens.key.bfloat16())
    call = BlockCnnCall(low.query, low.key, *evidence[2:], blocks.rows, pairs, *predictor.folded())
    expected = predictor(paired(Blocks.of(low, size), pairs))
    torch.testing.assert_close(block_cnn_logits(call), expected, atol=1e-4, rtol=1e-4)


@needs_kernels
@torch.inference_mode()
def test_the_logits_of_a_block_do_not_depend_on_its_batch_bit_by_bit():
    torch.manual_seed(0)
    tokens, predictor = _tokens(12, 32, False), _predictor(1, 12, 32)
    blocks = Blocks.of(tokens, 32)
    pairs = SIGHTS["diagonal"].pairs(blocks, torch.arange(len(blocks.number)))
    evidence = tokens.query, tokens.key, tokens.logsumexp, None
    arguments = (blocks.rows, pairs, *predictor.folded())
    together = block_cnn_logits(BlockCnnCall(*evidence, *arguments))
    for row in range(len(pairs)):
        alone = block_cnn_logits(
            BlockCnnCall(*evidence, blocks.rows, pairs[row : row + 1], *arguments[2:])
        )
        assert torch.equal(alone[0], together[row])


@needs_kernels
def test_the_compiled_predictor_runs_in_pure_inference_only():
    query = torch.zeros(3, 2, 4)
    assert not supports(query)
    with torch.no_grad():
        assert supports(query)
        assert not supports(query.to("meta"))


@needs_kernels
@torch.inference_mode()
def test_the_network_runs_where_a_pattern_masks_pairs():
    torch.manual_seed(0)
    tokens, predictor = _tokens(12, 32, False), _predictor(1, 12, 32)
    predictor.sight = SIGHTS["diagonal"]
    blocks = Blocks.of(tokens.but(pairs=tokens.read_by(Pattern(2), 12)), 32)
    numbers = torch.arange(len(blocks.number))
    maps = predictor.sight.see(blocks, numbers)
    assert (maps != 0).sum(-1).max() <= 5
    logits = predictor.judge(blocks, numbers)
    assert torch.equal(logits, predictor(maps))
    dense = predictor.judge(Blocks.of(tokens, 32), numbers)
    assert (logits - dense).abs().max() > 1e-3
