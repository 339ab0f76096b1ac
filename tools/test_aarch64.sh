#!/usr/bin/env bash
# Cross-compile cylstm for aarch64 and run its tests, or any arguments for its Python, under qemu. On Debian:
#
#     dpkg --add-architecture arm64 && apt-get update && apt-get install gcc-aarch64-linux-gnu qemu-user-static
#     tools/test_aarch64.sh                                   the bits of inference, then the suite at level neon
#     tools/test_aarch64.sh -m pytest tests/test_sizes.py     these arguments for the aarch64 Python
#
# Debian's aarch64 Python is unpacked, not installed; NumPy and SciPy are their aarch64 wheels. Everything lands in
# build/aarch64. Minutes to build, and tens of them for the suite, which is why .ci/run does not do this.
set -euo pipefail
cd "$(dirname "$0")/.."

version=3.11   # of Debian 12's Python
native=${PYTHON:-python$version}
here=$PWD/build/aarch64
root=$here/root
mkdir -p "$here"

if [ ! -x "$root/usr/bin/python$version" ]; then
    mkdir -p "$here/deb"
    (cd "$here/deb" && apt-get download \
        {libpython$version-dev,python$version-minimal,libpython$version-minimal,libpython$version-stdlib,libpython$version}:arm64 \
        {libc6,libgcc-s1,libstdc++6,zlib1g,libexpat1,libssl3,libffi8,libbz2-1.0,liblzma5,libsqlite3-0,libuuid1,libcrypt1}:arm64)
    for package in "$here"/deb/*.deb; do dpkg -x "$package" "$root"; done
fi

if [ ! -d "$here/packages" ]; then
    platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64)
    "$native" -m pip install -q --target "$here/packages" "${platforms[@]}" --only-binary=:all: \
        --implementation cp --python-version $version 'numpy>=2' 'scipy>=1.13' 'pytest>=8' 'hypothesis>=6' 'mpmath>=1.3' \
        'matplotlib>=3.8' 'safetensors>=0.5' 'tqdm>=4.64'
    "$native" -m venv "$here/tools"
    "$here/tools/bin/pip" install -q 'setuptools>=77' 'cython>=3.1' 'numpy>=2'
fi

# A python for scripts and for sys.executable: the kernel can not start an aarch64 program by itself.
cat > "$here/python" <<END
#!/bin/sh
exec qemu-aarch64-static -L '$root' '$root/usr/bin/python$version' "\$@"
END
chmod +x "$here/python"
printf 'import sys\nsys.executable = %s\n' "'$here/python'" > "$here/packages/sitecustomize.py"

# Build in a copy, so that no aarch64 library lands beside this machine's own.
tree=$here/tree
mkdir -p "$tree"
tar cf - --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE cylstm tests examples | tar xf - -C "$tree"
cd "$tree"
headers=$root/usr/include
CC=aarch64-linux-gnu-gcc LDSHARED='aarch64-linux-gnu-gcc -shared' \
CFLAGS="-O2 -I$headers/python$version -I$headers/aarch64-linux-gnu/python$version -I$headers" \
_PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu \
PYTHONPATH=$root/usr/lib/python$version/_sysconfigdata_only \
    bash -c 'mkdir -p "$PYTHONPATH" && cp "${PYTHONPATH%/*}/$_PYTHON_SYSCONFIGDATA_NAME.py" "$PYTHONPATH"
             "$0" setup.py -q build_ext --inplace' "$here/tools/bin/python"

export PYTHONPATH=$tree:$here/packages PYTHONDONTWRITEBYTECODE=1 CYLSTM_ISA=${CYLSTM_ISA:-neon}
if [ $# -gt 0 ]; then
    exec "$here/python" "$@"
fi
"$here/python" -c 'import cylstm; print(cylstm.show_config())'
"$here/python" tests/golden/make_bits.py
# Left out, because an emulator says nothing about it: what measures time.
"$here/python" -m pytest -q -p no:cacheprovider
