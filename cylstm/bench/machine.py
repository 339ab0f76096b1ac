"""Cores, threads, and a record of what the numbers were taken on. Imports no numerical library itself."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
    "RAYON_NUM_THREADS",
)  # fmt: skip
# These hold OpenBLAS to other kernels or blocks than it would choose: unfair to NumPy.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# These hold a library to an instruction set: left as they are, for comparisons at one level, and recorded.
_HOLDING = (
    "CYLSTM_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_NAME",
    "ONEDNN_MAX_CPU_ISA", "XLA_FLAGS",
)  # fmt: skip


def choose_cores(threads, last=None):
    """Return the cores to hold contenders to: the last ones, or those up to ``last``; None where none can be chosen.

    Raises
    ------
    ValueError
        If there are fewer cores than threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    there = sorted(os.sched_getaffinity(0))
    cores = [core for core in there if last is None or core <= last][-threads:]
    if len(cores) < threads or (last is not None and cores[-1] != last):
        wanted = "" if last is None else f" up to core {last}"
        raise ValueError(f"threads is {threads}{wanted}, expected at most one for each of the cores {there}")
    return cores


def environment(threads):
    """Return (the variables of a contender's process, those that were taken out of it)."""
    removed = {name: os.environ[name] for name in _UNSET if name in os.environ}
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return {**kept, **dict.fromkeys(_THREADS, str(threads))}, removed


def held():
    """{variable: value} of what holds a library to an instruction set."""
    return {name: os.environ[name] for name in _HOLDING if name in os.environ}


def pin(cores):
    """Hold this process to the cores: before the first numerical library is loaded, since BLAS counts them then."""
    if cores is not None:
        os.sched_setaffinity(0, cores)


def threads():
    """How many threads a contender may use: what its process was started with."""
    return int(os.environ["OMP_NUM_THREADS"])


def _lines(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def cpu_model():
    named = (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def caches_kib():
    """{"L1d": KiB, "L2": ..., "L3": ...} of the first core, as far as Linux tells."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_lines(index / name) for name in ("level", "type", "size"))
        if level and kind and size and kind[0] != "Instruction":
            found[f"L{level[0]}{'d' if kind[0] == 'Data' else ''}"] = int(size[0].rstrip("K"))
    return found


def commit(folder=ROOT):
    """The commit of a clone, "with changes" if it has any; None outside of one."""

    def git(*arguments):
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside of somebody else's repository.
    if git("ls-files", "cylstm/__init__.py") != "cylstm/__init__.py":
        return None
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{git('rev-parse', '--short', 'HEAD')}{' with changes' if changed else ''}"


def describe():
    """Return what to know of the machine beside any time."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "caches_kib": caches_kib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit(),
    }


def describe_build(folder):
    """Return cylstm's own configuration, as text; an ImportError if it is not the one in ``folder``."""
    import cylstm

    if not Path(cylstm.__file__).resolve().is_relative_to(Path(folder).resolve()):
        raise ImportError(f"cylstm came from {cylstm.__file__}, expected one in {folder}")
    cylstm.set_num_threads(threads())
    return {key: str(value) for key, value in cylstm.show_config().items()}


def version(package):
    """Return the version of the distribution that a package belongs to, or None."""
    for distribution in importlib.metadata.packages_distributions().get(package, [package]):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
