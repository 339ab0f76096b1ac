"""Classify MNIST digits row by row: the demo's job on the 60,000 images of the real thing.

    python examples/mnist_rows.py DIRECTORY [--epochs N] [--seed N] [--out FILE]

DIRECTORY holds the four IDX files of MNIST, packed or not, under either of their usual names:
train-images-idx3-ubyte[.gz] or train-images.idx3-ubyte[.gz], and so on. Nothing is downloaded.

Exit codes: 0 done, 1 the result could not be saved, 2 wrong arguments, or files missing or damaged,
130 interrupted.
"""

import argparse
import gzip
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from cylstm import demo

# (images, labels) of the two parts; the digit in a name is the number of axes
PARTS = {
    "training": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class BadData(Exception):
    """The files are not there, or not what they should be; the message is for the user."""


def variants(name):
    """The names under which a file may lie there, in the order they are looked for."""
    dotted = name.replace("-idx", ".idx")
    return [name, f"{name}.gz", dotted, f"{dotted}.gz"]


def find(directory):
    """{name: path} of the four files."""
    directory = Path(directory)
    if not directory.is_dir():
        raise BadData(f"{directory} is not a directory")
    paths, missing = {}, []
    for name in (name for part in PARTS.values() for name in part):
        found = [
            directory / variant for variant in variants(name) if (directory / variant).is_file()
        ]
        if found:
            paths[name] = found[0]
        else:
            missing.append(name)
    if missing:
        files = "".join(f"\n  {name}  (or {', '.join(variants(name)[1:])})" for name in missing)
        raise BadData(f"{directory} has no file of these names:{files}")
    return paths


def read_idx(path, ndim):
    """Read an IDX file of unsigned bytes.

    Parameters
    ----------
    path : path
        Unpacked on the way if it ends in ``.gz``.
    ndim : int
        The number of axes it should have.

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    BadData
        If it can not be read, or is not an IDX file of ``ndim`` axes whose size is what its head
        says.

    Notes
    -----
    The format: two zero bytes, 8 for unsigned bytes, the number of axes, the length of each axis as
    a big-endian 32-bit integer, then the elements, the last axis fastest. From the page of the data
    set, http://yann.lecun.com/exdb/mnist/.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"{path} can not be read: {error}") from error
    head = 4 + 4 * ndim
    if len(data) < head or data[:4] != bytes([0, 0, 8, ndim]):
        raise BadData(f"{path} is not an IDX file of unsigned bytes with {ndim} axes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, offset=4))
    if len(data) - head != math.prod(shape):
        raise BadData(
            f"{path} is damaged: its head says {shape}, {math.prod(shape)} bytes, "
            f"and {len(data) - head} follow"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def load(directory):
    """{part: (images, labels)}: (count, rows, pixels) of float32 from 0 to 1, and (count,)."""
    paths = find(directory)
    parts = {}
    for part, names in PARTS.items():
        images, labels = (
            read_idx(paths[name], ndim) for name, ndim in zip(names, (3, 1), strict=True)
        )
        if len(images) != len(labels) or images.size == 0:
            raise BadData(f"{part}: {images.shape} are the images and {labels.shape} the labels")
        if labels.max() > 9:
            raise BadData(f"{paths[names[1]]} has the label {labels.max()}, expected 0 to 9")
        parts[part] = images.astype(np.float32) / np.float32(255), labels.astype(np.int64)
    if parts["training"][0].shape[1:] != parts["test"][0].shape[1:]:
        raise BadData("the training images and the test images are not of one size")
    return parts


def main(argv=None):
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Classify MNIST digits row by row.",
        epilog="example: python examples/mnist_rows.py ~/mnist --epochs 2",
    )
    parser.add_argument("directory", help="where the four IDX files of MNIST are")
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", default="cylstm-mnist.safetensors", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1 or arguments.seed < 0:
        parser.error("--epochs must be at least 1 and --seed at least 0")
    try:
        parts = load(arguments.directory)
    except BadData as error:
        print(f"mnist_rows: error: {error}", file=sys.stderr)
        return 2
    try:
        demo.run(
            parts["training"],
            parts["test"],
            arguments.out,
            seed=arguments.seed,
            epochs=arguments.epochs,
            hidden_size=128,
            batch_size=128,
            lr=3e-3,
        )
    except OSError as error:
        print(f"mnist_rows: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmnist_rows: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
