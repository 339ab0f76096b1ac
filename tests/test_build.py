"""The sources are fit for every compiler and machine that is promised, as far as this one can tell."""

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import cylstm

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "cylstm" / "_kernels"
CHECK = Path(__file__).parent / "portable" / "simd_check.c"
COMPILER = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0]

needs_compiler = pytest.mark.skipif(
    os.name == "nt" or shutil.which(COMPILER) is None, reason="needs a compiler with the options of GCC or Clang"
)
each_dtype = pytest.mark.parametrize("dtype", [[], ["-DCYLSTM_FLOAT64"]], ids=["float32", "float64"])


def compile_check(*options):
    return subprocess.run(
        [COMPILER, "-std=c99", *options, f"-I{KERNELS}", CHECK], capture_output=True, text=True, timeout=60
    )


@needs_compiler
@each_dtype
def test_the_portable_level_is_strict_c99_and_computes_what_its_comments_say(tmp_path, dtype):
    program = tmp_path / "simd_check"
    level = ["-DCYLSTM_LEVEL_BASELINE", "-DCYLSTM_NO_VECTOR_EXTENSIONS"]
    done = compile_check("-pedantic-errors", "-Wall", "-Wextra", "-Werror", *level, *dtype, "-o", str(program))
    assert done.returncode == 0, done.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@needs_compiler
@each_dtype
@pytest.mark.parametrize("portable", [[], ["-DCYLSTM_NO_VECTOR_EXTENSIONS"]], ids=["vectors", "portable"])
def test_the_baseline_has_no_instruction_of_one_machine(dtype, portable):
    done = compile_check("-E", "-DCYLSTM_LEVEL_BASELINE", *portable, *dtype)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"_mm\d*_\w+|vfmadd\w+|vfmaq_\w+|\w*mmintrin\.h|arm_neon\.h", done.stdout) == []


@needs_compiler
def test_a_level_that_setup_does_not_name_is_an_error():
    done = compile_check("-fsyntax-only")
    assert done.returncode != 0 and "CYLSTM_LEVEL_BASELINE" in done.stderr


def test_a_build_that_ships_is_not_for_the_building_machine_alone_and_changes_no_value():
    assert re.findall(r"-march=native|-mtune=native|-Ofast|-ffast-math|/fp:fast", (ROOT / "setup.py").read_text()) == []


def test_every_level_and_dtype_is_the_same_source():
    files = sorted(KERNELS.glob("*.pyx"))
    levels = ("avx2", "avx512", "baseline", "neon")
    assert [file.stem for file in files] == [f"{level}_{dtype}" for level in levels for dtype in ("float32", "float64")]
    for file in files:
        code = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert code == ['include "kernels.pxi"'], file.name


def test_the_version_is_the_same_in_the_package_and_its_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == cylstm.__version__


def test_type_checkers_are_told_that_the_package_has_types():
    assert resources.files("cylstm").joinpath("py.typed").is_file()
