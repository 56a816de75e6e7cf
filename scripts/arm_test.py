"""Compile the kernels for ARM and run their tests on an emulated ARM processor.

`python scripts/arm_test.py [tests...]` takes a Debian system with arm64 enabled and its packages
`g++-aarch64-linux-gnu` and `qemu-user-static`:

    dpkg --add-architecture arm64 && apt-get update
    apt-get install g++-aarch64-linux-gnu qemu-user-static

It fetches an interpreter and libraries for ARM (2 GB) into `build/arm`, once. `--compiler` takes
another compiler for this target, as `clang++ --target=aarch64-linux-gnu`. What an emulator proves
is that answers are right, and nothing about speed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "arm"
TESTS = (
    "tests/unit/kernels/cpu",
    "tests/unit/kernels/test_kernels.py",
    "tests/unit/backbones/prepacked",
    "tests/contract/test_optimized.py",
)
GCC, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
PYTHON = "3.11"  # of Debian 12
DEBIAN = (
    *("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libcrypt1", "zlib1g", "libexpat1"),
    *("libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1"),
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
)
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
# without what they need: pip would look for it as for this machine
ALONE = ("torch==2.9.1", "accelerate", "seqeval")
BESIDE_TORCH = ("sympy", "networkx", "fsspec", "psutil", "pytest", "hypothesis")


def run(*words: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command; stop where it fails."""
    subprocess.run([str(word) for word in words], cwd=cwd, env=os.environ | environment, check=True)


def settings() -> dict[str, Any]:
    """Read the build of the kernels from pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    (kernels,) = project["tool"]["setuptools"]["ext-modules"]
    return {**kernels, "dependencies": project["project"]["dependencies"]}


def compile_kernels(compiler: str, kernels: dict[str, Any]) -> Path:
    """Compile the kernels beside their sources, as an installation on ARM would."""
    library = "_kernels.cpython-311-aarch64-linux-gnu.so"
    out = ROOT / "src/fewer/kernels/cpu" / library
    options = ("extra-compile-args", "extra-link-args", "sources")
    words = [word for name in options for word in kernels[name]]
    run(*shlex.split(compiler), "-fPIC", "-shared", *words, "-o", out)
    return out


def fetch_interpreter() -> Path:
    """Unpack Python and the libraries that it needs for ARM; return the root of that system."""
    system, packages = PLACE / "system", PLACE / "packages"
    python = system / f"usr/bin/python{PYTHON}"
    if not python.exists():
        packages.mkdir(parents=True, exist_ok=True)
        run("apt-get", "download", *(f"{name}:arm64" for name in DEBIAN), cwd=packages)
        for package in sorted(packages.glob("*.deb")):
            run("dpkg", "-x", package, system)
    return system


def fetch_packages(kernels: dict[str, Any]) -> Path:
    """Install what the tests import, as wheels for ARM."""
    site, ready = PLACE / "site", PLACE / "site" / "ready"
    if ready.exists():
        return site
    alone = tuple(name.partition("==")[0] for name in ALONE)
    names = [name for name in kernels["dependencies"] if not name.startswith(alone)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site]
    target = ["--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:"]
    for each in PLATFORMS:
        target += ["--platform", each]
    run(*pip, *target, *names, *BESIDE_TORCH)
    run(*pip, *target, "--no-deps", *ALONE[:-1])
    run(*pip, "--no-deps", *ALONE[-1:])  # of Python alone, and no wheel
    ready.touch()
    return site


def main() -> None:
    """Compile, fetch what is missing, run the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS)
    parser.add_argument("--compiler", default=GCC)
    options = parser.parse_args()
    if missing := [name for name in (GCC, EMULATOR, "dpkg", "apt-get") if not shutil.which(name)]:
        parser.error(f"needs {', '.join(missing)}; see python scripts/arm_test.py --help")
    kernels = settings()
    library = compile_kernels(options.compiler, kernels)
    system, site = fetch_interpreter(), fetch_packages(kernels)
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT, site)))
    words = [EMULATOR, "-L", system, system / f"usr/bin/python{PYTHON}", "-m", "pytest", "-q"]
    try:
        run(
            *words,
            *("-p", "no:cacheprovider", *options.tests),
            PYTHONPATH=path,
            PYTHONDONTWRITEBYTECODE="1",
            OMP_NUM_THREADS="1",
        )
    finally:
        library.unlink()


if __name__ == "__main__":
    main()
