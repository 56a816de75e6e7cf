"""Fail when a Python file below src/ uses a retired name or a pronoun as a variable.

Remove a line from `NOT_YET` to check a package or a file; the check says which ones are ready.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

SOURCE = Path(__file__).parent.parent / "src"

# Not cleaned yet: folders or files below src/.
NOT_YET: tuple[str, ...] = ()

# Home-made names of classes and functions that the field has its own words for.
RETIRED = {
    "Dial": "OperatingPoints",
    "Lesson": "TrainingBatch",
    "Onlooker": "ObservingPolicy",
    "PackedLayer": "PrepackedLayer",
    "Rehearsal": "CalibrationData",
    "RowwiseLinear": "BatchInvariantLinear",
    "Sight": "AttentionScope",
    "Spoken": "ExitOutput",
    "Stamp": "Fingerprint",
    "Taught": "TeacherOutput",
    "Unpackable": "NotPrepackable",
    "Verdict": "PredictorResult",
    "adjust": "set_threshold",
    "dial": "operating_points",
}

# A variable bears the name of its type or quantity: `logits`, `lengths`, `attachment`.
_PRONOUNS = """
again anyone asked asking both chosen few found given heard held judged kept known made met mine
most now one ones other others ours own picked said spoken taken theirs there told turn wanted
what whole
"""
PRONOUNS = frozenset(_PRONOUNS.split())


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Give the line and the message of each name in a file that should be another."""
    tree = ast.parse(source)
    operands = {id(argument) for node in ast.walk(tree) for argument in _operands(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in RETIRED:
                yield node.lineno, f"{node.name} is {RETIRED[node.name]} now"
        elif isinstance(node, ast.arg) and node.arg in PRONOUNS and id(node) not in operands:
            yield node.lineno, f"parameter {node.arg}: name its type or quantity"
        elif _is_target(node) and node.id in PRONOUNS:
            yield node.lineno, f"variable {node.id}: name its type or quantity"


def _operands(node: ast.AST) -> list[ast.arg]:
    """Return the arguments of an operator, which Python itself calls `other`."""
    is_operator = isinstance(node, ast.FunctionDef) and node.name.startswith("__")
    return node.args.args if is_operator else []


def _is_target(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)


def below(folder: Path, source: Path) -> list[str]:
    """List the faults of a file, or of all files of a folder, as `path:line: message`."""
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]
    return [
        f"{file.relative_to(source)}:{line}: {message}"
        for file in files
        for line, message in sorted(faults(file.read_text(encoding="utf-8")))
    ]


def checked(source: Path, not_yet: tuple[str, ...]) -> list[str]:
    """List the faults of all files that neither are in `not_yet` nor lie below it."""
    skipped = tuple(f"{entry}:" if entry.endswith(".py") else f"{entry}/" for entry in not_yet)
    return [line for line in below(source, source) if not line.startswith(skipped)]


def main() -> None:
    """Check what is ready, and name what could be checked from now on."""
    gone = [entry for entry in NOT_YET if not (SOURCE / entry).exists()]
    if gone:
        sys.exit(f"NOT_YET names what is not below src/: {', '.join(gone)}")
    if lines := checked(SOURCE, NOT_YET):
        sys.exit("\n".join(lines))
    ready = [entry for entry in NOT_YET if not below(SOURCE / entry, SOURCE)]
    print(f"words: {len(NOT_YET)} packages or files are not checked yet")
    if ready:
        print(f"words: ready to be checked, remove from NOT_YET: {', '.join(ready)}")


if __name__ == "__main__":
    main()
