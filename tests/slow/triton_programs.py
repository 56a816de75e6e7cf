"""Compile the Triton programs without a GPU and print what each takes, a JSON row per program.

Run as a script of its own, outside Triton's interpreter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fewer.kernels.triton.attention_programs import attend_program, merge_program
from fewer.kernels.triton.config import (
    choose_config,
    choose_received_config,
    pad_head_size,
)
from fewer.kernels.triton.received_program import received_program

HEADS = 12
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
STATES = {"q", "k", "v", "context"}
SCORES = {"gate", "weight", "logsumexp", "partial", "received"}
OPTIONS = {"gate", "weight", "position_q", "position_k", "exempt", "ranges"}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compile_program(program, dtype, head_size, capability, absent=()):
    """Compile a program with 16-byte aligned tensors; those in `absent` are None."""
    choose = choose_received_config if program is received_program else choose_config
    config = choose(dtype, head_size)
    constants = {
        "HEADS": HEADS,
        "PADDED_HEADS": 16,
        "WIDTH": head_size,
        "PADDED": pad_head_size(head_size),
        "ROWS": config.block_m,
        "KEYS": config.block_n,
        "BUFFERED": config.buffered,
        "PRECISION": config.precision,
        **dict.fromkeys(absent),
    }
    names = program.arg_names
    signature = {
        name: "constexpr" if name in constants else _type_of(name, NAMES[dtype]) for name in names
    }
    aligned = [
        index
        for index, name in enumerate(names)
        if signature[name].startswith("*") or re.fullmatch(r"stride_[qkv](_head)?", name)
    ]
    source = ASTSource(
        program,
        signature,
        {(names.index(name),): value for name, value in constants.items() if name in names},
        {(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _type_of(name, states):
    if name in STATES:
        return f"*{states}"
    if name in SCORES:
        return "*fp32"
    if name in ("scale",):
        return "fp32"
    is_tensor = name.startswith(("cu_", "position_")) or name in ("exempt", "ranges")
    return "*i64" if is_tensor and name != "ranges" else "*i32" if is_tensor else "i32"


def measure(compiled):
    """Return registers per thread, bytes of its stack, bytes of shared memory per block."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "shared": compiled.metadata.shared,
        "has_tensor_cores": "mma" in compiled.asm["ptx"],
    }


def main() -> None:
    """Compile what the arguments say: `CAPABILITY DTYPE HEAD_SIZE...`."""
    capability, name, *head_sizes = sys.argv[1:]
    dtype = next(dtype for dtype, short in NAMES.items() if short == name)
    for head_size in map(int, head_sizes):
        for label, program, absent in (
            ("plain", attend_program, OPTIONS | {"partial", "logsumexp"}),
            ("received", attend_program, OPTIONS),
            ("everything", attend_program, ()),
            ("from logsumexp", received_program, OPTIONS),
            ("from logsumexp, everything", received_program, ()),
            ("merge", merge_program, ()),
        ):
            compiled = compile_program(program, dtype, head_size, int(capability), absent)
            row = {"head_size": head_size, "program": label, **measure(compiled)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
