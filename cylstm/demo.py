"""The main job on real data, in seconds: train a classifier of images, test it, stream it, save it.

An LSTM reads an image row by row, from the top, and a Dense layer turns its last h into the logits
of the classes. ``python -m cylstm demo`` runs it on the digits of ``cylstm.data``;
examples/mnist_rows.py on MNIST. Written as a user would write it: from the public names of cylstm
alone.
"""

import errno
import io
import math
import os
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

__all__ = ["digits", "run", "save", "train"]

# Chosen on a fifth of the training images, held out for that and not the test images; four seeds
# each reached 98.3 to 98.6 % there. With 64 units, leaving out the noise on the pixels cost about
# one per cent.
HIDDEN_SIZE = 96
BATCH_SIZE = 32
EPOCHS = 25
LR = 1e-2
NOISE = 0.2
MAX_NORM = 1.0

STREAMED_IMAGES = 359  # enough for a median; all of the digits' test images
REFRESH_SECONDS = 0.1


def digits(out="cylstm-digits.npz", *, seed=0, epochs=EPOCHS):
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
        The file for the trained parameters; see :func:`save`.
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
    _check_writable(out)
    images, labels = training
    test_images, test_labels = test
    _, rows, pixels = images.shape
    print(
        f"{len(images)} images to train on, {len(test_images)} to test on, "
        f"each read as {rows} rows of {pixels} pixels",
        flush=True,
    )
    start = time.perf_counter()
    lstm, dense = train(
        images, labels, seed=seed, epochs=epochs, progress=_Progress(epochs, sys.stdout), **options
    )
    print(f"trained {lstm!r} and {dense!r} in {time.perf_counter() - start:.1f} s")

    accuracy = float((_classify(lstm, dense, test_images) == test_labels).mean())
    print(
        f"accuracy on {len(test_images)} images it has not seen: {100 * accuracy:.1f} %", flush=True
    )
    _stream(lstm, test_images[:STREAMED_IMAGES])
    save(out, lstm, dense)
    print(f"parameters saved to {out}")
    return accuracy


def train(
    images,
    labels,
    *,
    hidden_size=HIDDEN_SIZE,
    epochs=EPOCHS,
    batch_size=BATCH_SIZE,
    lr=LR,
    noise=NOISE,
    seed=0,
    progress=None,
):
    """Train an LSTM and a Dense layer to classify images, by Adam.

    Parameters
    ----------
    images : ndarray of float32, shape (count, rows, pixels)
    labels : ndarray of int, shape (count,)
        From 0; there are as many classes as the largest says.
    hidden_size, epochs, batch_size : int
    lr : float
        Learning rate of the first batch; it falls to zero on a line.
    noise : float
        Standard deviation of the normal noise that is added to the pixels, new in every epoch.
    seed : int
        Of the initial parameters, the order of the images and the noise.
    progress : callable, optional
        Called after every batch with (epoch, images of it done, images, mean loss, accuracy); loss
        and accuracy are those of this epoch so far, measured while the parameters change.

    Returns
    -------
    lstm, dense : cylstm.LSTM, cylstm.Dense
    """
    import cylstm

    rng = np.random.default_rng(seed)
    count, _, pixels = images.shape
    lstm = cylstm.LSTM(pixels, hidden_size, rng=rng)
    dense = cylstm.Dense(hidden_size, int(labels.max()) + 1, rng=rng)
    optimizer = cylstm.Adam([lstm, dense], lr=lr)
    tapes = cylstm.Tape(), cylstm.Tape()  # one per layer, for all batches

    batches = math.ceil(count / batch_size)
    for epoch in range(epochs):
        order = rng.permutation(count)
        loss_sum = correct = done = 0
        for batch in range(batches):
            chosen = order[batch * batch_size : (batch + 1) * batch_size]
            x = images[chosen].swapaxes(0, 1)  # (rows, batch, pixels): time is the first axis
            x = x + np.float32(noise) * rng.standard_normal(x.shape, dtype=np.float32)

            _, (h_n, c_n) = lstm.forward(x, tape=tapes[0])
            logits = dense.forward(h_n[0], tape=tapes[1])
            loss, dlogits = cylstm.losses.sparse_categorical_crossentropy(logits, labels[chosen], from_logits=True)

            g_dense = dense.backward(tapes[1], dlogits)
            dstate = g_dense.dx[None], np.zeros_like(c_n)
            g_lstm = lstm.backward(tapes[0], None, dstate)
            cylstm.clip_grad_norm([g_lstm, g_dense], MAX_NORM)
            optimizer.lr = lr * (1 - (epoch * batches + batch) / (epochs * batches))
            optimizer.step([g_lstm, g_dense])

            done += len(chosen)
            loss_sum += float(loss) * len(chosen)
            correct += int((logits.argmax(axis=-1) == labels[chosen]).sum())
            if progress is not None:
                progress(epoch, done, count, loss_sum / done, correct / done)
    return lstm, dense


def save(path, lstm, dense):
    """Write the parameters of both layers to an .npz file, under PyTorch's names.

    Parameters
    ----------
    path : str or path
        Written as named, without a suffix added.
    lstm, dense : cylstm.LSTM, cylstm.Dense
        Their names are prefixed with ``lstm.`` and ``dense.``, as in the state_dict of a
        ``torch.nn.Module`` with these two attributes.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        **{f"lstm.{name}": value for name, value in lstm.state_dict().items()},
        **{f"dense.{name}": value for name, value in dense.state_dict().items()},
    )
    Path(path).write_bytes(buffer.getvalue())


def _check_writable(path):
    """Fail now rather than after training."""
    path = Path(path)
    problem = None
    if path.is_dir():
        problem = errno.EISDIR
    elif not path.parent.is_dir():
        problem = errno.ENOENT
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = errno.EACCES
    if problem is not None:
        raise OSError(problem, os.strerror(problem), str(path))


def _classify(lstm, dense, images, batch_size=1000):
    """The class of each image, (count,)."""
    classes = np.empty(len(images), np.int64)
    for first in range(0, len(images), batch_size):
        _, (h_n, _) = lstm.forward(images[first : first + batch_size].swapaxes(0, 1))
        classes[first : first + batch_size] = dense.forward(h_n[0]).argmax(axis=-1)
    return classes


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
    """One line that is written over again and again; without a terminal, a line per epoch."""

    def __init__(self, epochs, file):
        self._epochs = epochs
        self._file = file
        self._terminal = file.isatty()
        self._start = time.perf_counter()
        self._shown = -math.inf

    def __call__(self, epoch, done, count, loss, accuracy):
        now = time.perf_counter() - self._start
        ended = done == count
        if not ended and (not self._terminal or now - self._shown < REFRESH_SECONDS):
            return
        self._shown = now
        width = len(str(self._epochs))
        line = (
            f"epoch {epoch + 1:{width}}/{self._epochs}  loss {loss:.4f}  "
            f"accuracy {100 * accuracy:5.1f} %  {now:5.1f} s"
        )
        if self._terminal:
            # the line is never shorter than the one it covers but by a digit of loss or time
            last = ended and epoch + 1 == self._epochs
            self._file.write(f"\r{line}  " + ("\n" if last else ""))
        else:
            self._file.write(line + "\n")
        self._file.flush()
