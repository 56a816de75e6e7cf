from dataclasses import replace

import pytest
import torch

from fewer.core.cost import ModelSpec
from fewer.core.evidence import Evidence
from fewer.core.packed import Packed, Placement, TextRoles
from fewer.kernels import Pattern
from fewer.methods.pruning.block_attention import AttentionPredictor
from fewer.methods.pruning.block_cnn import BlockCnnCall, block_cnn_logits, supports
from fewer.methods.pruning.blocks import SCOPES, AttentionScope, Blocks, pair_attention
from tests.isas import every_attention_isa, needs_kernels, pretend

LENGTHS = (1, 70, 33, 2, 128)


def _draw(heads, width, soft):
    """Draw texts with holes and their evidence; some keys have a gate, some of them 0."""
    columns = max(LENGTHS)
    slots = [row * columns + column for row, n in enumerate(LENGTHS) for column in range(n)]
    slot = torch.tensor(slots)
    slot = slot[(torch.rand(len(slots)) < 0.8) | (slot % columns == 0)]
    sequence = slot // columns
    counts = torch.bincount(sequence, minlength=len(LENGTHS))
    total = len(slot)
    gate = torch.rand(total).masked_fill(torch.rand(total) < 0.2, 0.0) if soft else None
    cu, extent = torch.nn.functional.pad(counts.cumsum(0), (1, 0)), torch.tensor(LENGTHS)
    position = slot % columns
    tokens = Packed(
        hidden=torch.zeros(total, heads * width),
        placement=Placement(sequence, position, slot, cu, extent, (len(LENGTHS), columns)),
        roles=TextRoles(protected=position == 0),
        gate=gate,
    )
    evidence = Evidence(
        query=torch.randn(total, heads, width),
        key=torch.randn(total, heads, width),
        logsumexp=2 + torch.rand(total, heads).masked_fill(torch.rand(total, 1) < 0.1, torch.inf),
    )
    return tokens, evidence


def _predictor(maps, heads, size):
    torch.manual_seed(1)
    spec = ModelSpec(1, heads, heads, 0.0, ())
    predictor = AttentionPredictor(AttentionScope(maps, None), size, spec).eval()
    for module in predictor:
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return predictor


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("sees", [name for name, scope in SCOPES.items() if scope.pairs])
@pytest.mark.parametrize(
    ("heads", "width", "size"), [(12, 32, 32), (2, 4, 4), (3, 8, 16), (16, 2, 20)]
)
@every_attention_isa
@torch.inference_mode()
def test_the_compiled_predictor_equals_the_network(
    isa, heads, width, size, sees, soft, monkeypatch
):
    pretend(monkeypatch, isa)
    torch.manual_seed(0)
    (tokens, evidence), scope = _draw(heads, width, soft), SCOPES[sees]
    blocks = Blocks.of(tokens, evidence, size)
    predictor = _predictor(scope.count, heads, size)
    pairs = scope.pairs(blocks, torch.arange(len(blocks.table.number)).flip(0))
    query, key, logsumexp = evidence.attention_inputs
    network = blocks.rows, pairs, *predictor.folded()
    logits = block_cnn_logits(BlockCnnCall(query, key, logsumexp, tokens.gate, *network))
    expected = predictor(pair_attention(blocks, pairs))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    low = replace(evidence, query=query.bfloat16(), key=key.bfloat16())
    call = BlockCnnCall(low.query, low.key, logsumexp, tokens.gate, *network)
    expected = predictor(pair_attention(Blocks.of(tokens, low, size), pairs))
    torch.testing.assert_close(block_cnn_logits(call), expected, atol=1e-4, rtol=1e-4)


@needs_kernels
@torch.inference_mode()
def test_the_logits_of_a_block_do_not_depend_on_its_batch_bit_by_bit():
    torch.manual_seed(0)
    (tokens, evidence), predictor = _draw(12, 32, soft=False), _predictor(1, 12, 32)
    blocks = Blocks.of(tokens, evidence, 32)
    pairs = SCOPES["diagonal"].pairs(blocks, torch.arange(len(blocks.table.number)))
    attended = *evidence.attention_inputs, None
    arguments = (blocks.rows, pairs, *predictor.folded())
    together = block_cnn_logits(BlockCnnCall(*attended, *arguments))
    for row in range(len(pairs)):
        alone = block_cnn_logits(
            BlockCnnCall(*attended, blocks.rows, pairs[row : row + 1], *arguments[2:])
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
    (tokens, evidence), predictor = _draw(12, 32, soft=False), _predictor(1, 12, 32)
    predictor.scope = SCOPES["diagonal"]
    layout = tokens.placement.attention_layout(Pattern(2), tokens.roles, 12)
    blocks = Blocks.of(tokens, replace(evidence, pairs=layout), 32)
    numbers = torch.arange(len(blocks.table.number))
    maps = predictor.scope.form(blocks, numbers)
    assert (maps != 0).sum(-1).max() <= 5
    logits = predictor.score_blocks(blocks, numbers)
    assert torch.equal(logits, predictor(maps))
    dense = predictor.score_blocks(Blocks.of(tokens, evidence, 32), numbers)
    assert (logits - dense).abs().max() > 1e-3
