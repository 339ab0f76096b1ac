"""What this installation is and what it chose: for bug reports and benchmarks."""

import importlib.util
import os
import sys

import numpy as np

from . import parallel
from ._core import dispatch


class Config(dict):
    """A dict that prints as a table."""

    def __repr__(self):
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.items())

    __str__ = __repr__


def _openblas_core():
    """The kernels that OpenBLAS runs on, as its own library tells; None if it is not loaded or is another BLAS."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "openblas" in line}
    except OSError:
        return None
    for path in sorted(paths, key=lambda path: "scipy" not in path):
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_get_corename", "openblas_get_corename", "scipy_openblas_get_corename64_"):
            function = getattr(library, name, None)
            if function is not None:
                function.restype = ctypes.c_char_p
                return function().decode()
    return None


def _blas():
    """A word on the BLAS of Dense.backward, which is loaded by the first of these calls."""
    if importlib.util.find_spec("scipy") is None:
        return "none: SciPy is not installed (only Dense.backward needs it)"
    module = sys.modules.get("cylstm._core.blas")
    if module is None:
        return "scipy.linalg.cython_blas, loaded by the first Dense.backward"
    return f"scipy.linalg.cython_blas, {module.integer_bits()}-bit integers"


def show_config():
    """The version, instruction-set level, lanes, BLAS and threads in force.

    Returns
    -------
    Config
        A dict that prints as a table. ``openblas_core`` is the kernel type that OpenBLAS (NumPy's, or SciPy's once
        ``Dense.backward`` has loaded it) reports, or None where it can not be told.

    Examples
    --------
    >>> import cylstm
    >>> cylstm.show_config()["level"] in ("baseline", "avx2", "avx512", "neon")
    True
    """
    from . import MATH_VERSION, __version__

    return Config(
        version=__version__,
        math_version=MATH_VERSION,
        level=dispatch.level,
        levels_supported=", ".join(dispatch.supported_levels()),
        lanes_float32=dispatch.lanes("float32"),
        lanes_float64=dispatch.lanes("float64"),
        blas=_blas(),
        openblas_core=_openblas_core(),
        openblas_coretype_variable=os.environ.get("OPENBLAS_CORETYPE"),
        threads=parallel.get_num_threads(),
        numpy=np.__version__,
        python=sys.version.split()[0],
    )
