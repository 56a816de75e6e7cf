"""`fewer index` is killed at random points, again and again, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fewer
from tests.unit.passages.made import model_of, tokenizer_of

COMMAND = """
import sys
from fewer.passages import building
building.SHARD_CHARS = 2000
from fewer.cli.main import main
main()
"""
KILLS = 5
PASSAGES = 400


def _started(*words: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], env=environment)


@pytest.mark.slow
def test_an_index_ends_with_the_same_bytes_however_often_it_is_killed(tmp_path: Path) -> None:
    fewer.save(model_of(), tmp_path / "model")
    tokenizer_of().save_pretrained(tmp_path / "model")
    draw = random.Random(0)
    corpus = tmp_path / "corpus.jsonl"
    with corpus.open("w") as stream:
        for number in range(PASSAGES):
            text = " ".join(f"w{draw.randrange(50)}" for _ in range(draw.randrange(90)))
            stream.write(json.dumps({"id": str(number), "text": text}) + "\n")
    words = ["index", tmp_path / "model", corpus, "--output"]
    assert _started(*words, tmp_path / "unbroken").wait() == 0
    shards = len(list((tmp_path / "unbroken").glob("*.safetensors")))
    assert shards > 2 * KILLS

    killed = tmp_path / "killed"
    for number in range(KILLS):
        process = _started(*words, killed)
        while len(list(killed.glob("*.safetensors"))) < (number + 1) * shards // (KILLS + 2):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert _started(*words, killed).wait() == 0
    files = [
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "unbroken", killed)
    ]
    assert files[0] == files[1]
