"""One core, one thread, and a record of what the numbers were taken on.

Imports no numerical library: ``hold_to_one_core`` must run before the first of them is loaded,
since BLAS reads its variables then.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# These hold OpenBLAS to other kernels or blocks than it would choose: unfair to NumPy.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def hold_to_one_core(core=None):
    """Pin this process and the children to come to one core; return what was changed."""
    removed = {name: os.environ.pop(name) for name in _UNSET if name in os.environ}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    if hasattr(os, "sched_setaffinity"):
        core = max(os.sched_getaffinity(0)) if core is None else core
        os.sched_setaffinity(0, {core})
    return {"core": core, "threads": 1, "unset": removed}


def _cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _commit():
    def git(*arguments):
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short", "HEAD")
    if commit and git("status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    return commit


def describe():
    """Return what to know of the machine and the build beside any time."""
    try:
        import cylstm

        config = {key: str(value) for key, value in dict(cylstm.show_config()).items()}
    except Exception as error:
        config = {"not importable": f"{type(error).__name__}: {error}"}
    return {
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "commit": _commit(),
        "cylstm": config,
    }


def version(package):
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
