"""The main job on real data, in seconds: train a classifier of images, test it, stream it, save it.

An LSTM reads an image row by row, from the top, and a Dense layer turns its last h into the logits
of the classes. ``python -m cylstm demo`` runs it on the digits of ``cylstm.data``;
examples/mnist_rows.py on MNIST. Written as a user would write it: from the public names of cylstm
alone, but for a look at where the file goes.
"""

import functools
import math
import sys
import time
from statistics import median

import numpy as np

from . import validation

__all__ = ["digits", "run", "train"]

# Chosen on a fifth of the training images, held out for that and not the test images; three seeds
# reached 97.2 to 98.3 % there. Dropout of a tenth and more, before or behind the LSTM, made it worse.
HIDDEN_SIZE = 96
BATCH_SIZE = 32
EPOCHS = 25
LR = 1e-2
MAX_NORM = 1.0

STREAMED_IMAGES = 359  # enough for a median; all of the digits' test images
REFRESH_SECONDS = 0.1


def digits(out="cylstm-digits.safetensors", *, seed=0, epochs=EPOCHS):
    """Run the demo on the digits of :func:`cylstm.data.load_digits`; see :func:`run`."""
    from cylstm.data import load_digits

    return run(load_digits("train"), load_digits("test"), out, seed=seed, epochs=epochs)


def run(training, test, out, *, seed=0, epochs=EPOCHS, **options):
    """Train, test, stream and save, and print how it goes.

    Parameters
    ----------
    training, test : (images, labels)
        Images (count, rows, pixels) of float32 from 0 to 1; labels (count,), integers from 0.
    out : str or path
        The file for the trained model, which :func:`cylstm.load` reads.
    seed, epochs : int
    **options
        Passed to :func:`train`.

    Returns
    -------
    float
        The share of the test images that was classified correctly.

    Raises
    ------
    OSError
        If ``out`` can not be written. Looked at before training too.
    """
    validation.writable_file(out)
    images, labels = training
    test_images, test_labels = test
    _, rows, pixels = images.shape
    print(
        f"{len(images)} images to train on, {len(test_images)} to test on, "
        f"each read as {rows} rows of {pixels} pixels",
        flush=True,
    )
    start = time.perf_counter()
    model = train(images, labels, seed=seed, epochs=epochs, callbacks=[_Progress(sys.stdout)], **options)
    if model.history.interrupted:
        raise KeyboardInterrupt
    lstm, _, dense = model.layers
    print(f"trained {lstm!r} and {dense!r} in {time.perf_counter() - start:.1f} s")

    accuracy = float((model.predict(test_images).argmax(axis=-1) == test_labels).mean())
    print(
        f"accuracy on {len(test_images)} images it has not seen: {100 * accuracy:.1f} %", flush=True
    )
    _stream(lstm, test_images[:STREAMED_IMAGES])
    model.save(out)
    print(f"model saved to {out}")
    return accuracy


def train(
    images,
    labels,
    *,
    hidden_size=HIDDEN_SIZE,
    epochs=EPOCHS,
    batch_size=BATCH_SIZE,
    lr=LR,
    seed=0,
    callbacks=(),
):
    """Train an LSTM and a Dense layer to classify images, by Adam.

    Parameters
    ----------
    images : ndarray of float32, shape (count, rows, pixels)
    labels : ndarray of int, shape (count,)
        From 0; there are as many classes as the largest says.
    hidden_size, epochs, batch_size : int
    lr : float
        Learning rate of the first batch; it falls to zero on half a cosine.
    seed : int
        Of the initial parameters and the order of the images.
    callbacks : list
        As :func:`cylstm.fitting.fit` takes them.

    Returns
    -------
    cylstm.Sequential
        Its layers are called "lstm", "last" and "dense"; it makes logits of images.
    """
    import cylstm

    rng = np.random.default_rng(seed)
    count, _, pixels = images.shape
    lstm = cylstm.LSTM(pixels, hidden_size, rng=rng)
    dense = cylstm.Dense(hidden_size, int(labels.max()) + 1, rng=rng)
    model = cylstm.Sequential([("lstm", lstm), ("last", cylstm.Last()), ("dense", dense)])
    steps = epochs * math.ceil(count / batch_size)
    model.fit(
        images,
        labels,
        loss=functools.partial(cylstm.losses.sparse_categorical_crossentropy, from_logits=True),
        optimizer=cylstm.Adam(lr=cylstm.schedules.cosine(lr, steps)),
        epochs=epochs,
        batch_size=batch_size,
        rng=rng,
        metrics=["accuracy"],
        callbacks=callbacks,
        progress=False,
        clip_norm=MAX_NORM,
    )
    return model


def _stream(lstm, images):
    """Feed images row by row to a stream and to the reference; print times and differences."""
    from cylstm import reference

    count, rows, _ = images.shape
    h = np.empty((count, rows, lstm.hidden_size), np.float32)  # of the stream, every step
    h_reference = np.empty_like(h)
    weights = {name.removesuffix("_l0"): value for name, value in lstm.parameters.items()}
    stream = lstm.stream()
    # per image, so that a median can leave out what interrupted
    seconds, seconds_reference = [], []

    for image, out in zip(images, h, strict=True):
        stream.reset()
        start = time.perf_counter()
        for x, h_t in zip(image, out, strict=True):
            stream.step(x, out=h_t)
        seconds.append(time.perf_counter() - start)

    for image, out in zip(images, h_reference, strict=True):
        h_t = c_t = np.zeros((1, lstm.hidden_size), np.float32)
        start = time.perf_counter()
        for t in range(rows):
            h_t, c_t, _ = reference.lstm_cell(image[t : t + 1], h_t, c_t, **weights)
            out[t] = h_t[0]
        seconds_reference.append(time.perf_counter() - start)

    step, step_reference = median(seconds) / rows, median(seconds_reference) / rows
    print(
        f"streamed {count} of them row by row: {1e6 * step:.2f} microseconds per step, "
        f"{step_reference / step:.1f} times the speed of the NumPy reference "
        f"({1e6 * step_reference:.1f})"
    )
    batched, _ = lstm.forward(images.swapaxes(0, 1))
    same = np.array_equal(h, batched.swapaxes(0, 1))
    verdict = "none, bit for bit" if same else "not the same bits"
    print(
        f"largest difference from the reference: {np.abs(h - h_reference).max():.1e}; "
        f"from the same images in one batch: {verdict}",
        flush=True,
    )


class _Progress:
    """A callback: one line that is written over again and again; without a terminal, a line per epoch."""

    def __init__(self, file):
        self._file = file
        self._terminal = file.isatty()
        self._start = time.perf_counter()
        self._shown = -math.inf

    def on_batch_end(self, training):
        if self._terminal and time.perf_counter() - self._start - self._shown >= REFRESH_SECONDS:
            self._write(training, training.epoch + 1, "")

    def on_epoch_end(self, training):
        self._write(training, training.epoch, "\n" if training.epoch == training.epochs else "")

    def _write(self, training, epoch, end):
        self._shown = time.perf_counter() - self._start
        width = len(str(training.epochs))
        line = (
            f"epoch {epoch:{width}}/{training.epochs}  loss {training.logs['loss']:.4f}  "
            f"accuracy {100 * training.logs['accuracy']:5.1f} %  {self._shown:5.1f} s"
        )
        # on a terminal the line is never shorter than the one it covers but by a digit of loss or time
        self._file.write(f"\r{line}  {end}" if self._terminal else line + "\n")
        self._file.flush()
