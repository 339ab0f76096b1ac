"""Build the sdist, build the wheel from that sdist alone, look at what is in them, and test them in a clean venv.

    python tools/check_dist.py [TEST ...]

Run from the root of the project, by the Python to check with; needs the network or pip's own find-links. Writes
dist/ and nothing else. The tests are the sdist's (all of them, or those named), run against the installed wheel.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

WHEEL_BYTES = 4_000_000
IN_SDIST = [
    "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py", "cylstm/py.typed", "cylstm/data/digits.npz",
    "cylstm/data/elnino.csv", "cylstm/_core/packing.pyx", "cylstm/_core/packing.pxd", "cylstm/_core/atomic.h",
    "cylstm/_kernels/kernels.pxi", "cylstm/_kernels/simd.h", "cylstm/_kernels/neon_float32.pyx",
    "tests/test_reference.py", "tests/golden/bits.txt", "tests/portable/simd_check.c", "examples/data/alice.txt",
    "examples/data/zero_position.npz",
]  # fmt: skip
IN_WHEEL = [
    "cylstm/py.typed", "cylstm/data/digits.npz", "cylstm/data/elnino.csv", "cylstm/_core/sequence.",
    "cylstm/_kernels/baseline_float64.",
]  # fmt: skip
NOT_IN_SDIST = ("build/", "dist/", ".venv", ".git/")
NOT_IN_WHEEL = ("tests/", "tools/", "benchmarks/", "examples/", "docs/", "build/")
SOURCES = (".pyx", ".pxd", ".pxi", ".c", ".h")
BUILT = (".so", ".pyd", ".pyc", ".o")


def run(*command, cwd=None):
    print("+", *command, flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, check=True)


def require(condition, message):
    if not condition:
        sys.exit(f"check_dist: {message}")


def check_names(kind, names, wanted, unwanted, suffixes):
    for name in wanted:
        require(any(found.startswith(name) for found in names), f"the {kind} has no {name}")
    for name in names:
        require(not name.endswith(suffixes), f"the {kind} has {name}")
        require(not name.startswith(unwanted), f"the {kind} has {name}")
    print(f"the {kind} has {len(names)} files, as it should")


def new_environment(directory):
    venv.create(directory, with_pip=True)
    return directory / ("Scripts" if sys.platform == "win32" else "bin")


def main():
    dist = Path("dist").resolve()
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        tools = new_environment(temporary / "tools")
        run(tools / "python", "-m", "pip", "install", "-q", "build>=1.2")
        # Without --wheel or --sdist: the wheel is built from the unpacked sdist, not from this directory.
        run(tools / "python", "-m", "build", "--outdir", dist)
        sdist = max(dist.glob("cylstm-*.tar.gz"), key=lambda path: path.stat().st_mtime)
        wheel = max(dist.glob("cylstm-*.whl"), key=lambda path: path.stat().st_mtime)

        with tarfile.open(sdist) as archive:
            names = [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]
            check_names("sdist", names, IN_SDIST, ("build/", "dist/", ".venv", ".git/"), BUILT)
            generated = [name for name in names if name.startswith("cylstm/") and name.endswith(".c")]
            require(not generated, f"the sdist has generated C: {generated}")
            archive.extractall(temporary, filter="data")
        with zipfile.ZipFile(wheel) as archive:
            check_names("wheel", archive.namelist(), IN_WHEEL, NOT_IN_WHEEL, SOURCES)
        size = wheel.stat().st_size
        print(f"{wheel.name}: {size:,} bytes, at most {WHEEL_BYTES:,}")
        require(size <= WHEEL_BYTES, f"the wheel has {size:,} bytes, over {WHEEL_BYTES:,}")

        clean = new_environment(temporary / "clean")
        run(clean / "python", "-m", "pip", "install", "-q", f"{wheel}[test]")
        run(clean / "python", "-m", "cylstm", "demo", "--out", temporary / "demo.npz", cwd=temporary)
        # `pytest` and not `python -m pytest`, which would import the uncompiled package of the directory.
        run(clean / "pytest", "-q", *sys.argv[1:], cwd=temporary / sdist.name.removesuffix(".tar.gz"))


if __name__ == "__main__":
    main()
