"""One of the processes of `test_ddp.py`: trains all phases, prints what it holds in the end."""

import hashlib
import os
import sys
from pathlib import Path

import torch

import fewer
from fewer.methods.combined import MagicPyramid
from fewer.training.fit import Schedule, dense_phase, fit
from tests.slow.test_exits_learn import votes
from tests.tiny import tiny, word_tokenizer


def digest(model: torch.nn.Module) -> str:
    """Hash all parameters and buffers."""
    content = b"".join(tensor.numpy().tobytes() for _, tensor in sorted(model.state_dict().items()))
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Train a Magic Pyramid: LTP's soft and hard phases, then heads alone."""
    folder = Path(sys.argv[1])
    torch.manual_seed(int(os.environ["RANK"]))  # processes begin apart
    model = fit(
        tiny(layers=3, num_labels=2).train(),
        MagicPyramid(pruning=fewer.LTP(target=0.7, epochs=(1, 1))),
        votes(int(sys.argv[2]), seed=1)[0],
        tokenizer=word_tokenizer(),
        output_dir=folder,
        dense=dense_phase(1.0, 1e-3),
        schedule=Schedule(batch_size=8, precision="fp32", save_every=5),
        resume=(folder / "fit.json").exists(),
    )
    rank, saved = os.environ["RANK"], fewer.load(folder / "model", precision=None)
    (folder.parent / f"rank-{rank}").write_text(f"{digest(model)} {digest(saved)}")


if __name__ == "__main__":
    main()
