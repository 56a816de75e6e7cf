"""Build the package, install it as a user does, run README's Python blocks away from the checkout.

`python scripts/install_test.py` does so with the newest releases that pyproject.toml allows and
with the oldest, each in a fresh environment without a GPU. `--suite` runs the unit and paper suites
there instead. Environments take about 7 GB each, for a plain `torch` is a CUDA build.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("newest", "floors")
# what the tests read besides the package itself
CARRIED = (
    "tests",
    "docs",
    "examples",
    "benchmarks",
    "scripts",
    "recipes",
    "*.md",
    "*.toml",
    "*.yml",
    "Makefile",
    "LICENSE",
)
README = "tests/unit/test_docs.py::test_every_block_runs"
# Old releases warn of newer ones of what they need: a user sees nothing of it.
SUITE = ["tests/unit", "tests/paper", "-W", "ignore::DeprecationWarning"]


def floors(wheel: Path) -> list[str]:
    """Turn each lower bound of the package into that very version: `a>=1.2,<2` into `a==1.2`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    needed = re.findall(r"^Requires-Dist: ([\w.-]+).*?>=([\w.]+)", metadata, re.MULTILINE)
    return sorted({f"{name}=={version}" for name, version in needed})


def tracked(*paths: str) -> list[str]:
    """List the files of the repository below some paths."""
    return subprocess.check_output(["git", "ls-files", *paths], cwd=ROOT, text=True).splitlines()


def call(*words: str | Path, cwd: Path) -> None:
    """Run a command without a GPU and without the checkout on its path; stop where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in words], cwd=cwd, env=environment, check=True)


def environment(folder: Path) -> Path:
    """Make a bare environment and return its interpreter."""
    call(sys.executable, "-m", "venv", folder, cwd=ROOT)
    return folder / "bin" / "python"


def build(folder: Path) -> Path:
    """Build the sdist, from it the wheel, and check that both hold every file of the package."""
    python = environment(folder / "builder")
    call(python, "-m", "pip", "install", "--quiet", "build", cwd=ROOT)
    source = folder / "source"
    copy(tracked(), source)  # a build folder of the checkout would find its way into the wheel
    call(python, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    (sdist,), (wheel,) = (list((folder / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        installed = {f"src/{name}" for name in archive.namelist()}
    wanted = set(tracked("src/fewer"))
    missing = sorted(f"{name} of the sdist" for name in wanted - packed)
    missing += sorted(f"{name} of the wheel" for name in wanted - installed)
    if platform.machine() == "x86_64" and shutil.which("gcc"):
        kernels = [
            name for name in installed if re.match(r"src/fewer/kernels/cpu/_kernels.*\.so", name)
        ]
        missing += [] if kernels else ["the compiled kernels of the wheel"]
    if missing:
        raise SystemExit("missing: " + ", ".join(missing))
    return wheel


def copy(names: list[str], folder: Path) -> None:
    """Copy files of the repository, as they are in the checkout."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def install(kind: str, wheel: Path, folder: Path, *, suite: bool) -> Path:
    """Install the wheel alone, look at it, then add what the tests need; return the interpreter."""
    python = environment(folder / kind)
    limits: list[str | Path] = []
    if kind == "floors":
        limits = ["--constraint", folder / "floors.txt"]
        (folder / "floors.txt").write_text("\n".join(floors(wheel)) + "\n")
    call(python, "-m", "pip", "install", "--quiet", *limits, wheel, cwd=folder)
    call(python, "-m", "pip", "check", cwd=folder)
    for words in (["--help"], ["fit", "--help"], ["methods"]):
        call(python, "-m", "fewer", *words, cwd=folder)
    call(
        python,
        "-c",
        "from fewer.kernels.cpu.library import available_isas; print(available_isas())",
        cwd=folder,
    )
    tools = [f"{wheel}[dev]"] if suite else ["pytest", "hypothesis"]
    call(python, "-m", "pip", "install", "--quiet", *limits, *tools, cwd=folder)
    call(python, "-m", "pip", "list", "--format=freeze", cwd=folder)
    return python


def main() -> None:
    """Build once, then install and test each kind of environment, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"which environments: {', '.join(KINDS)}")
    parser.add_argument("--suite", action="store_true", help="run the unit and paper suites")
    kinds = (options := parser.parse_args()).kinds or KINDS
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"kinds must be of {', '.join(KINDS)}; got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="fewer-install-", dir="/var/tmp") as place:
        folder = Path(place)
        wheel = build(folder)
        copy(tracked(*CARRIED), folder / "desk")
        for kind in kinds:
            start = time.perf_counter()
            python = install(kind, wheel, folder, suite=options.suite)
            ready = time.perf_counter()
            tests = SUITE if options.suite else [README, "-k", "README"]
            call(python, "-m", "pytest", "-q", *tests, cwd=folder / "desk")
            took = time.perf_counter() - ready
            print(f"{kind}: installed in {ready - start:.0f} s, tested in {took:.0f} s", flush=True)
            shutil.rmtree(folder / kind)


if __name__ == "__main__":
    main()
