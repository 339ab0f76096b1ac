"""The compiled parts of cylstm, and the flags of each with their reasons. Everything else: pyproject.toml.

Environment, for those who test the build itself (CONTRIBUTING.md says how):
CYLSTM_DEBUG=1      bounds-checked memoryviews and AddressSanitizer
CYLSTM_PORTABLE=1   the portable level alone, without vector extensions: what a compiler like MSVC builds
"""

import os
import platform
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("CYLSTM_DEBUG") == "1"
PORTABLE = os.environ.get("CYLSTM_PORTABLE") == "1"
FLAVOUR = "-".join(name for name, wanted in (("debug", DEBUG), ("portable", PORTABLE)) if wanted) or "release"
GNU = os.name != "nt"  # GCC or Clang
JOBS = min(4, os.cpu_count() or 1)

TARGET = sysconfig.get_platform()  # of the build's result; platform.machine() is where the build runs
MACHINE = TARGET.rpartition("-")[2]
if TARGET.startswith("macosx") and MACHINE == "universal2":
    # One set of flags does not fit two machines, so the result is for one: this one, unless ARCHFLAGS says.
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")
    MACHINE = os.environ["ARCHFLAGS"].split()[-1]

OPTIMISE = ["-O3", "-g0"] if GNU else ["/O2"]  # debug information would be most of the wheel
if DEBUG:
    OPTIMISE = ["-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer"]

# Kernels only. The same bits at every level need a multiply-add that is fused where it is written so and nowhere
# else; errno and trapping comparisons would keep loops from becoming vector code, and change no value.
STRICT = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"] if GNU else ["/fp:precise"]
# A tile's functions must be inlined with its constants, or its accumulators are no registers. (Cython marks every
# `cdef inline` function with this macro.)
INLINE = [("CYTHON_INLINE", "inline __attribute__((always_inline))")] if GNU else []

LEVELS = {"baseline": []}
if GNU and not PORTABLE:
    if MACHINE in ("x86_64", "amd64"):
        LEVELS["avx2"] = ["-mavx2", "-mfma"]
        LEVELS["avx512"] = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx2", "-mfma"]
    elif MACHINE in ("aarch64", "arm64"):
        LEVELS["neon"] = []  # part of every aarch64

CORE = (
    "dispatch", "cells", "packing", "sequence", "stepper", "chain", "feedforward", "crossentropy", "blas", "noise",
    "gradients", "team", "turns", "update", "stack", "workers",
)  # fmt: skip
NUMPY = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")]
LINK = ["-fsanitize=address"] if DEBUG else []


def kernel(level, dtype):
    macros = [(f"CYLSTM_LEVEL_{level.upper()}", None), *INLINE]
    if dtype == "float64":
        macros.append(("CYLSTM_FLOAT64", None))
    if PORTABLE:
        macros.append(("CYLSTM_NO_VECTOR_EXTENSIONS", None))
    return Extension(
        f"cylstm._kernels.{level}_{dtype}",
        [f"cylstm/_kernels/{level}_{dtype}.pyx"],
        depends=[
            f"cylstm/_kernels/{name}"
            for name in ("kernels.pxi", "variants.pxi", "updates.pxi", "simd.h", "table.h")
        ],
        include_dirs=["cylstm/_kernels"],
        define_macros=macros,
        extra_compile_args=[*OPTIMISE, *STRICT, *LEVELS[level]],
        extra_link_args=LINK,
        libraries=["m"] if GNU else [],  # erfc and log1p, of gelu and softplus
    )


def core(name):
    return Extension(
        f"cylstm._core.{name}",
        [f"cylstm/_core/{name}.pyx"],
        depends=["cylstm/_kernels/table.h", "cylstm/_core/atomic.h"],
        include_dirs=["cylstm/_kernels", "cylstm/_core", numpy.get_include()],
        define_macros=[*NUMPY, ("CYLSTM_BUILT_LEVELS", f'"{" ".join(LEVELS)}"')],
        extra_compile_args=OPTIMISE,
        extra_link_args=LINK,
    )


# Intel's processors from Skylake to Cascade Lake decode anew, each time, the code around a jump that crosses a
# boundary of 32 bytes (erratum SKX102): 7 % of a tile, or nothing, as chance places its loop. Assemblers before
# 2020 do not know the flag.
WHOLE_JUMPS = "-Wa,-mbranches-within-32B-boundaries"


class Build(build_ext):
    def run(self):
        super().run()
        # After `pip install .` in a clone, `python -m cylstm` begun in that clone imports the package that lies there,
        # and not the installed one: it needs the compiled modules as well.
        self.copy_extensions_to_source()

    def build_extensions(self):
        if "avx2" in LEVELS and self.takes(WHOLE_JUMPS):
            for extension in self.extensions:
                if extension.name.startswith("cylstm._kernels."):
                    extension.extra_compile_args.append(WHOLE_JUMPS)
        super().build_extensions()

    def takes(self, flag):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "empty.c")
            source.write_text("int empty;\n")
            command = [*self.compiler.compiler, flag, "-c", str(source), "-o", str(source.with_suffix(".o"))]
            try:
                return subprocess.run(command, capture_output=True).returncode == 0
            except OSError:  # no compiler, which the build will say better
                return False


directives = {
    "language_level": 3,
    "boundscheck": DEBUG,  # memoryviews are indexed where speed does not matter; pointers elsewhere
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,  # operands are never negative, and never zero
    "embedsignature": True,
}

setup(
    ext_modules=cythonize(
        [kernel(level, dtype) for level in LEVELS for dtype in ("float32", "float64")]
        + [core(name) for name in CORE],
        compiler_directives=directives,
        build_dir=f"build/{FLAVOUR}/cython",
    ),
    cmdclass={"build_ext": Build},
    # Flavours differ in flags, which no timestamp shows: each has a directory of its own.
    options={"build": {"build_base": f"build/{FLAVOUR}"}, "build_ext": {"parallel": JOBS}},
)
