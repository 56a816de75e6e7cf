"""Index passages in processes that are killed: `python -m tests.unit.passages.interrupted`.

Arguments: a folder, and after how many shards each process is killed. A last one ends the work, and
one that comes while another writes is refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fewer.passages import building
from tests.unit.passages.made import index_of, model_of

PASSAGES = {f"p{n}": " ".join(f"w{(n * m) % 50}" for m in range(1, 12)) for n in range(24)}
REFUSED = 3


def main(folder: Path, kills: list[int]) -> None:
    """Write an index unbroken, and one over several deaths."""
    building.SHARD_CHARS = 30
    model = model_of()

    def write(target: Path) -> None:
        try:
            index_of(model, target, passages=PASSAGES)
        except ValueError as error:
            sys.exit(REFUSED * (str(target) in str(error)) or 1)

    assert _ended(_fork(write, folder / "unbroken")) == 0
    killed = refused = 0
    for number, shards in enumerate(kills):
        process = _fork(write, folder / "killed")
        while len(list((folder / "killed").glob("*.safetensors"))) <= shards:
            time.sleep(0.001)
        if not number:  # while the first one writes
            os.kill(process, signal.SIGSTOP)
            refused += _ended(_fork(write, folder / "killed")) == REFUSED
        os.kill(process, signal.SIGKILL)
        killed += _ended(process) == -signal.SIGKILL
    assert _ended(_fork(write, folder / "killed")) == 0
    print(json.dumps({"killed": killed, "refused": refused}))


def _fork(write: Callable[[Path], None], target: Path) -> int:
    process = os.fork()
    if process:
        return process
    try:
        write(target)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def _ended(process: int) -> int:
    """Wait for a process: its exit status, or the signal that killed it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
