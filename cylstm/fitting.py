"""fit: the loop over epochs and batches, with what belongs to it: history, callbacks, checkpoints.

Knows a model by what it does with rows of arrays: ``_as_rows`` (convert and check once), ``_rows_pass`` (forward of a
batch), ``_pass_backward``, ``evaluate``, ``parameters``; an optimiser by ``step``; losses and metrics as functions.
Knows no layer and does no arithmetic but the means that it reports. ``x`` and ``lengths`` may be tuples of arrays
throughout: a model with two inputs has two of each.
"""

import contextlib
import functools
import math
import time
from typing import NamedTuple

import numpy as np

from . import losses, training, validation
from . import metrics as known_metrics
from .feedforward import Reverse
from .sequential import Model
from .tape import Gradients, Tape

__all__ = ["Checkpoint", "EarlyStopping", "History", "Training", "fit"]

_OPTIMIZERS = {kind.__name__.lower(): kind for kind in (training.SGD, training.RMSprop, training.Adam, training.AdamW)}
_HOOKS = ("on_fit_begin", "on_batch_end", "on_epoch_end", "on_fit_end")
_BAR_SECONDS = 0.1  # how often its numbers are written anew


class History(dict):
    """What :func:`fit` reports: {name: list of floats, one per epoch}.

    "loss" and each metric by its name, "val_loss" and so on where there are rows for validation, and "lr", the learning
    rate of the epoch's last step. Those of the rows trained on are means over the epoch, taken while the parameters
    change; those for validation are of the parameters after it.
    """

    _interrupted = False

    @property
    def interrupted(self):
        """bool: whether Ctrl-C ended the training."""
        return self._interrupted


class _Rows(NamedTuple):
    """Rows to train on or to judge by. x and lengths may be tuples of arrays, lengths and weight None."""

    x: np.ndarray | tuple
    y: np.ndarray
    lengths: np.ndarray | tuple | None
    weight: np.ndarray | None

    def __len__(self):
        return len(self.y)

    def map(self, function):
        """``function`` of each array."""
        return _Rows(*(_map(function, field) for field in self))

    def part(self, rows):
        return self.map(lambda array: array[rows])


def _map(function, field):
    """``function`` of an array, or of each array of a tuple; None stays None."""
    if field is None:
        return None
    return tuple(_map(function, part) for part in field) if isinstance(field, tuple) else function(field)


class Training:
    """A training that is under way: what callbacks are given.

    Attributes
    ----------
    model, optimizer
    tape : Tape
        Of all passes; its seed and calls decide about dropout.
    rng : numpy.random.Generator
        What the order of the rows comes from.
    epochs : int
        How many there will be in all.
    epoch : int
        How many are finished; in ``on_epoch_end`` the one that ends is counted.
    batches, batch : int
        How many batches an epoch has, and how many of them are done.
    history : History
    stop : bool
        A callback sets it to True to end the training after this epoch.
    """

    def __init__(self, model, optimizer, loss, metrics, validated, rng, epochs, callbacks, clip_norm, clip_value):
        self.model = model
        self.optimizer = optimizer
        self.rng = rng
        self.tape = Tape(seed=int(rng.integers(1 << 63)))
        self.epochs = epochs
        self.epoch = self.batch = self.batches = 0
        self.history = History()
        self.stop = False
        self._callbacks = callbacks
        self._loss = loss
        self._loss_name = f"loss {_name_of(loss)}"
        self._metrics = metrics
        made = ["loss", *metrics]
        self._names = [*made, *(f"val_{name}" for name in made if validated), "lr"]  # of the history
        self._same: dict = {}  # what a training that goes on from a checkpoint has to be called with again
        self._fresh = optimizer.layers is None  # the optimiser is bound here, and no step is made yet
        self._clip_norm = clip_norm
        self._clip_value = clip_value
        self._forget()

    def _forget(self):
        """Begin the means of an epoch."""
        self._values = {name: [] for name in ("loss", *self._metrics)}
        self._weights = []
        self._ended = False

    @property
    def logs(self):
        """dict of str to float: the numbers of this epoch so far; when it has ended, all of it that history has."""
        if self._ended:
            return {name: values[-1] for name, values in self.history.items() if values}
        return self._means()

    def _means(self):
        functions = {"loss": self._loss, **self._metrics}
        return {
            name: known_metrics.combine(functions[name], values, self._weights) for name, values in self._values.items()
        }

    def _step(self, rows, states):
        """Forwards, backwards and one change of the parameters; the states of the layers after it.

        Where no position counts nothing changes, not by momentum or weight decay either.
        """
        model = self.model
        y_pred, states, steps = model._rows_pass(rows.x, rows.lengths, states, self.tape)
        positions = {"batch_first": True}
        if steps is not None:
            positions |= steps._asdict()
        weight = losses.total_weight(y_pred, rows.weight, **positions)
        if not weight:
            return states
        value, dy = self._value_and_gradient(y_pred, rows, positions)
        self._check("loss", value)
        found = {"loss": value}
        for name, metric in self._metrics.items():
            found[name] = _number(f"metric {name}", metric(y_pred, rows.y, rows.weight, **positions))
        gradients = model._pass_backward(self.tape, dy, None)
        self._clip(gradients)
        self._update(gradients)
        self._weights.append(weight)
        for name, value in found.items():
            self._values[name].append(value)
        return states

    def _value_and_gradient(self, y_pred, rows, positions):
        """What the loss makes of a batch, which may be one of the user's own."""
        found = self._loss(y_pred, rows.y, rows.weight, **positions)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            kind = type(found).__name__
            raise TypeError(f"{self._loss_name} returned a {kind}, expected a pair (value, gradient of y_pred)")
        value, dy = found
        if getattr(dy, "shape", None) != y_pred.shape or dy.dtype != y_pred.dtype:
            kind = f"{dy.shape} of {dy.dtype}" if isinstance(dy, np.ndarray) else f"a {type(dy).__name__}"
            wanted = f"{y_pred.shape} of {y_pred.dtype}, as y_pred is"
            raise TypeError(f"{self._loss_name} returned {kind} for the gradient, expected an array {wanted}")
        return _number(self._loss_name, value), dy

    def _update(self, gradients):
        """One step of the optimiser, unless the gradient is not finite or a parameter would no longer be."""
        optimizer, steps = self.optimizer, self.optimizer.steps
        optimizer._finite = True
        try:
            optimizer.step([gradients])
        except FloatingPointError as error:
            raise self._broken(error, made=optimizer.steps > steps) from None
        finally:
            optimizer._finite = False
            self._fresh = self._fresh and optimizer.steps == steps

    def _clip(self, gradients):
        """Clip what is trainable."""
        if self._clip_value is None and self._clip_norm is None:
            return
        names = self.model._trainable_names()
        if len(names) < len(gradients.parameters):
            gradients = Gradients(None, None, {name: gradients.parameters[name] for name in names})
        if self._clip_value is not None:
            training.clip_grad_value([gradients], self._clip_value)
        if self._clip_norm is not None:
            self._check("norm of the gradient", training.clip_grad_norm([gradients], self._clip_norm))

    def _check(self, what, value):
        if not math.isfinite(value):
            raise self._broken(f"the {what} is {value}")

    def _broken(self, what, made=False):
        """The error of a step; ``made``: the optimiser has made it, in all but the parameters."""
        if made:
            rest = ", but the optimiser has made it, in moments and steps: try a smaller learning rate with a new one"
        else:
            rest = ": try a smaller learning rate, clip_norm=, or look for such values in x or y"
        place = f"step {len(self._weights) + 1} of epoch {self.epoch + 1}"
        return FloatingPointError(f"{what} in {place}; the parameters are those from before this step{rest}")

    def _end_epoch(self, validated):
        """Note what the epoch came to."""
        logs = self._means() | {f"val_{name}": value for name, value in validated.items()}
        schedule = self.optimizer.schedule
        logs["lr"] = validation.learning_rate("lr", schedule(max(self.optimizer.steps - 1, 0)))
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self.epoch += 1
        self._ended = True
        schedule.update(_monitored(self.logs, schedule.monitor or ("val_loss" if validated else "loss")))


def _monitored(logs, name):
    _check_monitor(logs, name)
    return logs[name]


def _check_monitor(names, name):
    if name not in names:
        raise ValueError(f"monitor is {name!r}, expected one of {', '.join(map(repr, names))}")


def _name_of(function):
    """What a loss is called; a ``functools.partial`` as its function."""
    return getattr(getattr(function, "func", function), "__name__", type(function).__name__)


def _number(what, value):
    """A number that a function of the user's own may have returned, as a float."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} returned {value!r}, expected a number") from None


class EarlyStopping:
    """A callback that ends the training when a number has not become better for some epochs.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A name of the history; one that a callback before this one adds has a list there from ``on_fit_begin`` on.
    patience : int, default 5
        How many epochs in a row may bring nothing better: the training ends after the last of them.
    min_delta : float, default 0.0
        By how much a value must be better than the best to count.
    mode : {"min", "max"}, optional
        Whether smaller or larger is better; if omitted, larger where "accuracy" is in the name.
    restore_best : bool, default True
        Whether the model has the parameters of the best epoch when the training has ended, also where all epochs were
        made. After Ctrl-C it has the last ones.

    Attributes
    ----------
    best : float
        NaN is never better; without any value infinity, or minus infinity if larger is better.
    best_epoch : int
        Counted from 1; 0 if there is none yet.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> from cylstm.fitting import EarlyStopping
    >>> model = cylstm.Sequential([cylstm.Dense(1, 1, rng=0)])
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> history = model.fit(x, 2 * x, loss="mse", optimizer=cylstm.SGD(lr=0.5), epochs=1000, validation_split=0.25,
    ...                     callbacks=[EarlyStopping(patience=2, min_delta=1e-6)], rng=0, progress=False)
    >>> len(history["loss"]) < 100
    True
    """

    def __init__(self, monitor="val_loss", patience=5, min_delta=0.0, mode=None, restore_best=True):
        self.monitor = validation.text("monitor", monitor)
        self.patience = validation.size("patience", patience)
        self.min_delta = validation.number("min_delta", min_delta, 0, math.inf, high_open=True)
        chosen = validation.choice("mode", mode, (None, "min", "max"))
        self.mode = chosen or ("max" if "accuracy" in monitor else "min")
        self.restore_best = validation.flag("restore_best", restore_best)
        self._forget()

    def on_fit_begin(self, training):
        _check_monitor([*training._names, *training.history], self.monitor)
        self._forget()

    def _forget(self):
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = 0
        self._waited = 0
        self._parameters = {}

    def on_epoch_end(self, training):
        value = _monitored(training.logs, self.monitor)
        if value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta:
            self.best, self.best_epoch, self._waited = value, training.epoch, 0
            if self.restore_best:
                self._parameters = dict(training.model.parameters)  # read-only and never changed: no copies
        else:
            self._waited += 1
            training.stop |= self._waited >= self.patience

    def on_fit_end(self, training):
        if self._parameters:
            training.model.load_state_dict(self._parameters)

    def state_dict(self):
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self._waited, **self._parameters}

    def load_state_dict(self, state_dict):
        self._parameters = dict(state_dict)
        self.best, self.best_epoch, self._waited = map(self._parameters.pop, ("best", "best_epoch", "waited"))


class Checkpoint:
    """A callback that writes a file from which ``fit(..., resume=path)`` goes on to the same bits.

    Written whole or not at all (:func:`cylstm.saving.write_file`), after all other callbacks of the epoch, and over
    the one before. It holds the parameters, the history and the states of the optimiser and its schedule, of the
    generator of the rows' order, of the tape and of the callbacks that have ``state_dict``.

    Parameters
    ----------
    path : str or path
    every : int, default 1
        Every so many epochs, and after the last.
    """

    def __init__(self, path, every=1):
        self.path = validation.path("path", path)
        self.every = validation.size("every", every)

    def on_fit_begin(self, training):
        validation.writable_file(self.path)

    def on_epoch_end(self, training):
        if training.epoch % self.every == 0 or training.stop or training.epoch == training.epochs:
            _write_checkpoint(self.path, training)


def _parts_of(training):
    """{name: what has a state of its own, a dict of arrays and numbers}"""
    parts = {"optimizer": training.optimizer}
    parts |= {f"callbacks[{n}]": part for n, part in enumerate(training._callbacks) if hasattr(part, "state_dict")}
    return parts


def _write_checkpoint(path, training):
    from . import saving

    arrays = {f"model.{name}": value for name, value in training.model.parameters.items()}
    states = {}
    for name, part in _parts_of(training).items():
        states[name] = {"class": type(part).__name__}
        for key, value in part.state_dict().items():
            if isinstance(value, np.ndarray):
                arrays[f"{name}.{key}"] = value
            else:
                states[name][key] = value
    checkpoint = {
        "same": training._same,
        "epoch": training.epoch,
        "stop": training.stop,
        "history": training.history,
        "rng": _plain(training.rng.bit_generator.state),
        "tape": {"seed": training.tape.seed, "calls": training.tape.calls},
        "trainable": [bool(leaf.trainable) for leaf in training.model._leaves],
        "states": states,
    }
    saving.write_file(path, arrays, {"checkpoint": checkpoint})


def _resume(path, training):
    """Bring a training to where it was when it wrote ``path``."""
    from . import saving

    arrays, metadata = saving.read_file(path)
    if "checkpoint" not in metadata:
        raise ValueError(f"{path} is not a checkpoint of fit")
    try:
        checkpoint = metadata["checkpoint"]
        same = checkpoint["same"]
        differing = [f"its {name} is {same[name]!r}, but {value!r} is given" for name, value in training._same.items()
                     if same[name] != value]  # fmt: skip
        if differing:
            raise ValueError("; ".join(differing))
        epoch = validation.size("epoch", checkpoint["epoch"], 0)
        if epoch > training.epochs:
            raise ValueError(f"it has {epoch} epochs, but epochs={training.epochs} is given")
        states = checkpoint["states"]
        parts = _parts_of(training)
        kinds = {name: type(part).__name__ for name, part in parts.items()}
        found = {name: state.pop("class") for name, state in states.items()}
        if found != kinds:
            raise ValueError(f"its optimiser and callbacks are {found}, expected {kinds}")
        rng = _unplain(training.rng.bit_generator.state, checkpoint["rng"])
        model = training.model
        parameters = validation.parameters(_of(arrays, "model."), model._shapes, model.dtype)
        trainable = [validation.flag("trainable", flag) for flag in checkpoint["trainable"]]
        for name, part in parts.items():
            part.load_state_dict(states[name] | _of(arrays, f"{name}."))
        model.load_state_dict(parameters)
        for leaf, flag in zip(model._leaves, trainable, strict=True):
            leaf.trainable = flag
        training.rng.bit_generator.state = rng
        training.tape = Tape(checkpoint["tape"]["seed"])
        training.tape.calls = validation.size("calls", checkpoint["tape"]["calls"], 0)
        training.epoch = epoch
        training.stop = validation.flag("stop", checkpoint["stop"])
        training.history.update(checkpoint["history"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not fit this training: {error}") from error


def _of(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _plain(state):
    """The state of a bit generator as JSON has it."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _unplain(like, state):
    """What ``_plain`` was given; ``like`` is a state of the same kind."""
    if isinstance(like, dict):
        if like.keys() != state.keys():
            raise ValueError(f"its generator has {', '.join(state)}, expected {', '.join(like)}")
        return {name: _unplain(value, state[name]) for name, value in like.items()}
    if isinstance(like, str) and like != state:
        raise ValueError(f"its generator is {state}, expected {like}, that of rng")
    return np.array(state, like.dtype) if isinstance(like, np.ndarray) else state


def fit(
    model, x, y, *, loss, optimizer="adam", epochs=1, batch_size=32, lengths=None, sample_weight=None,
    validation_data=None, validation_split=0.0, shuffle=True, rng=None, metrics=(), callbacks=(), progress=True,
    tbptt=None, stateful=False, clip_norm=None, clip_value=None, resume=None,
):  # fmt: skip
    """Train a model.

    Parameters
    ----------
    model : Sequential or EncoderDecoder
        Its parameters are changed; ``model.history`` becomes the history, whatever ends the training.
    x : array_like, shape (n, seq_len, features)
        As for ``model.predict``: anything that NumPy takes for numbers, converted to the model's dtype once. Of an
        EncoderDecoder a tuple (x, y_in), and ``lengths`` a tuple (lengths, y_lengths).
    y : array_like, shape (n, ...)
        The target of each row, or of each row and step, as the loss takes it. Floats are converted to the model's
        dtype, integers (classes) stay integers.
    loss : str or callable
        A name of :mod:`cylstm.losses`, or a function like those. One of the module has looked at all targets and
        weights, those for validation too, before the first step, except at steps that the model itself may mask.
    optimizer : str or optimiser, default "adam"
        "sgd", "rmsprop", "adam", "adamw" with the defaults of their classes; or an optimiser without layers, which is
        bound to the model here, or one that was bound to it by an earlier fit and goes on.
    epochs : int, default 1
        Passes over the rows, those before ``resume`` included.
    batch_size : int, default 32
        Rows per step. The last batch of an epoch has what is left.
    lengths : array_like of int, shape (n,), optional
        Valid steps of each row, 0 to seq_len: for the layers and, where the output has a time axis, the loss. A batch
        in which nothing counts for the loss makes no step of the optimiser, and is in no mean.
    sample_weight : array_like, shape (n,) or (n, seq_len), optional
        As in the losses.
    validation_data : tuple, optional
        (x, y), (x, y, sample_weight) or (x, y, sample_weight, lengths), with None for what there is not: rows that the
        model is judged by after each epoch.
    validation_split : float in [0, 1), default 0.0
        Or this share of the rows, the last of them as they come, as in Keras: rows in an order have to be shuffled
        before. They are not trained on; the others are n (1 - share), rounded down.
    shuffle : bool, or iterable of permutations, default True
        True: a new order of the rows in each epoch. An iterable gives the order itself, n integers for each epoch.
    rng : None, int or numpy.random.Generator
        A seed: the same one gives the same bits, for one number of threads and one instruction-set level. It is asked
        for ``integers(1 << 63)``, the seed of the tape, and then for ``permutation(n)`` before each epoch that is
        shuffled.
    metrics : list of str or callable, optional
        Names of :mod:`cylstm.metrics`, or functions like those.
    callbacks : list
        Objects with some of the methods ``on_fit_begin(training)``, ``on_batch_end``, ``on_epoch_end`` and
        ``on_fit_end``, called in the order of the list with a :class:`Training`; a plain function is called at the end
        of each epoch. ``on_fit_begin`` comes before ``resume`` is read, ``on_fit_end`` not where Ctrl-C or an error
        ended the training. What has a
        ``state_dict()`` of arrays and numbers and a ``load_state_dict`` is in checkpoints.
    progress : bool, default True
        Whether to show a bar with the loss and the metrics (tqdm's, on stderr).
    tbptt : int, optional
        Truncated back-propagation through time [1]_: rows are cut along time into chunks of so many steps, each makes
        one step of the optimiser and hands its states, but no gradient, on to the next. y and the model's output need a
        time axis. A chunk without a valid step is left out.
    stateful : bool, default False
        Row b of a batch goes on from the state of row b of the batch before; an epoch begins anew. Needs
        ``shuffle=False``, and ``batch_size`` has to divide n. (Validation begins anew in each row.)
    clip_norm, clip_value : float, optional
        Limits of the norm of the gradient of all trainable parameters and of each of its elements, which comes first.
    resume : str or path, optional
        A file of a :class:`Checkpoint`. With the other arguments as they were, the training goes on from there to the
        same bits as if it had not ended. Another dtype, loss, batch_size, tbptt or stateful, other names in the history
        and fewer epochs than it has are refused.

    Returns
    -------
    History
        A dict of lists, one entry per epoch. Ctrl-C ends the training and is not raised again: the model has the
        parameters of the last whole step, the history all whole epochs, and its ``interrupted`` is True.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit. An optimiser that came without layers has none again where no step was made.
    OSError
        If a :class:`Checkpoint` has no directory to write to, before the first step.
    FloatingPointError
        If the loss, the gradient or, by a step, a parameter becomes NaN or infinite; the message has the epoch and the
        step. The model has the parameters from before that step. In the last case the optimiser's moments and number
        of steps are those from after it.

    Notes
    -----
    A schedule such as :class:`~cylstm.schedules.ReduceOnPlateau` is given "val_loss" after each epoch, "loss" where
    nothing is for validation, or what its ``monitor`` says.

    References
    ----------
    .. [1] R. J. Williams, J. Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
       Trajectories", Neural Computation 2(4), 1990.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 10, 1))
    >>> y = x.sum(axis=(1, 2))[:, None] > 0
    >>> dense = cylstm.Dense(8, 1, activation="sigmoid", rng=1)
    >>> model = cylstm.Sequential([cylstm.LSTM(1, 8, rng=2), cylstm.Last(), dense])
    >>> history = model.fit(x, y, loss="binary_crossentropy", optimizer=cylstm.Adam(lr=0.02), epochs=15,
    ...                     metrics=["accuracy"], rng=3, progress=False)
    >>> history["accuracy"][-1] > 0.9
    True
    """
    if not isinstance(model, Model):
        raise TypeError(f"model is a {type(model).__name__}, expected a Sequential or an EncoderDecoder")
    loss = losses.get(loss)
    metrics = known_metrics.by_name(() if metrics is None else metrics)
    epochs = validation.size("epochs", epochs, 0)
    batch_size = validation.size("batch_size", batch_size)
    progress = validation.flag("progress", progress)
    if not isinstance(shuffle, (bool, np.bool_)) and not hasattr(shuffle, "__iter__"):
        raise TypeError(f"shuffle is {shuffle!r}, expected True, False or a permutation of the rows for each epoch")
    if hasattr(shuffle, "__len__") and len(shuffle) < epochs:
        raise _too_few(len(shuffle), epochs)
    if clip_norm is not None:
        clip_norm = validation.number("clip_norm", clip_norm, 0, math.inf)
    if clip_value is not None:
        clip_value = validation.number("clip_value", clip_value, 0, math.inf)
    if resume is not None:
        resume = validation.path("resume", resume)
    rows = _rows(model, x, y, sample_weight, lengths)
    rows, judged = _split(model, rows, validation_data, validation_split)
    if tbptt is not None:
        tbptt = _check_tbptt(model, rows, tbptt)
    stateful = validation.flag("stateful", stateful)
    if stateful:
        _check_stateful(model, rows, shuffle, batch_size)
    _check_targets(model, rows, loss, metrics)
    if judged is not None:
        with _naming("validation_data" if validation_data is not None else "validation_split"):
            _check_targets(model, judged, loss, metrics)
    hooks = _hooks(callbacks)
    optimizer = _optimizer(optimizer)
    state = Training(
        model, optimizer, loss, metrics, judged is not None, validation.generator(rng), epochs, callbacks, clip_norm,
        clip_value,
    )  # fmt: skip
    if optimizer.schedule.monitor is not None:
        _check_monitor(state._names, optimizer.schedule.monitor)
    state.batches = -(-len(rows) // batch_size)
    state._same = {
        "dtype": str(model.dtype), "loss": _name_of(loss), "history": state._names, "batch_size": batch_size,
        "tbptt": tbptt, "stateful": stateful,
    }  # fmt: skip
    history = model.history = state.history
    orders = _orders(shuffle, len(rows), state)
    gather = _Gather(rows, batch_size)
    bar = None
    try:
        optimizer.bind([model])
        for hook in hooks["on_fit_begin"]:
            hook(state)
        if resume is not None:
            _resume(resume, state)
        bar = _Bar(state) if progress else None
        while state.epoch < state.epochs and not state.stop:
            gather.order = next(orders)
            state.batch, states = 0, None
            state._forget()
            for first in range(0, len(rows), batch_size):
                batch = gather(first)
                for part in _chunks(batch, tbptt):
                    states = state._step(part, states)
                if not stateful:
                    states = None
                state.batch += 1
                for hook in hooks["on_batch_end"]:
                    hook(state)
                if bar is not None:
                    bar.update()
            validated = {}
            if judged is not None:
                arguments = loss, metrics.values(), batch_size, judged.lengths, judged.weight
                validated = model.evaluate(judged.x, judged.y, *arguments)
            state._end_epoch(validated)
            if bar is not None:
                bar.end_epoch()
            for hook in hooks["on_epoch_end"]:
                hook(state)
        for hook in hooks["on_fit_end"]:
            hook(state)
    except KeyboardInterrupt:
        history._interrupted = True
    except BaseException:
        if state._fresh:
            optimizer._unbind()
        raise
    finally:
        for values in history.values():
            del values[state.epoch :]
        if bar is not None:
            bar.close()
    return history


# What fit is made of --------------------------------------------------------------------------------------------------


def _rows(model, x, y, weight, lengths):
    """Converted and checked, once for all epochs."""
    x, lengths = model._as_rows(x, lengths)
    count = len(x[0] if isinstance(x, tuple) else x)
    if count == 0:
        raise ValueError("x has no rows, expected at least one")
    y = validation.numbers("y", y)
    validation.rows("y", y, count)
    if y.dtype.kind == "f":
        y = validation.cast("y", y, model.dtype or y.dtype)
    elif y.dtype.kind in "iu":
        y = validation.cast("y", y, np.dtype(np.intp))
    if weight is not None:
        weight = validation.numbers("sample_weight", weight)
        validation.rows("sample_weight", weight, count)
    return _Rows(x, y, lengths, weight)


def _split(model, rows, data, share):
    """(rows to train on, rows to judge by or None)"""
    share = validation.number("validation_split", share, 0, 1, high_open=True)
    if data is not None:
        if share:
            raise ValueError("validation_data and validation_split are both given, expected one of them")
        if not isinstance(data, (tuple, list)) or not 2 <= len(data) <= 4:
            words = "(x, y), (x, y, sample_weight) or (x, y, sample_weight, lengths)"
            count = f" of {len(data)}" if isinstance(data, (tuple, list)) else ""
            raise ValueError(f"validation_data is a {type(data).__name__}{count}, expected a tuple {words}")
        with _naming("validation_data"):
            return rows, _rows(model, *data, *[None] * (4 - len(data)))
    if not share:
        return rows, None
    count = math.floor(round(len(rows) * (1 - share), 6))  # 10 (1 - 0.9) is below 1 in binary
    if not 0 < count < len(rows):
        what = "to train on" if count == 0 else "for validation"
        raise ValueError(f"validation_split is {share} of {len(rows)} rows, which leaves none {what}")
    return rows.part(slice(count)), rows.part(slice(count, None))


@contextlib.contextmanager
def _naming(name):
    """What is wrong inside is wrong with this argument."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from None


def _check_targets(model, rows, loss, metrics):
    """Refuse before the first step what a loss or metric would refuse in one of the batches.

    The functions themselves look at all rows, beside an output of the shape that the model's will have, which a forward
    of no row shows. A function of the user's own is not called with made-up outputs; the weights are looked at anyway.
    """
    none = rows.part(slice(0))
    y, _, steps = model._rows_pass(none.x, none.lengths, None, None)
    ours = [*losses._BY_NAME.values(), *known_metrics._BY_NAME.values()]
    functions = [function for function in (loss, *metrics.values()) if getattr(function, "func", function) in ours]
    for some in model._batches(len(rows), math.prod(y.shape[1:]), 1):
        part = rows.part(some)
        y_pred = np.broadcast_to(y.dtype.type(0.5), (len(part), *y.shape[1:]))
        positions = {"batch_first": True}
        if steps is not None and steps.mask is None:
            positions["lengths"] = part.lengths[-1] if isinstance(part.lengths, tuple) else part.lengths
        elif steps is not None:  # which steps a layer masks is not known yet: of shapes and weights alone
            positions["mask"] = np.zeros(y_pred.shape[:-1], bool)
        losses.total_weight(y_pred, part.weight, **positions)
        with np.errstate(all="ignore"):
            for function in functions:
                function(y_pred, part.y, part.weight, **positions)


def _optimizer(optimizer):
    """An optimiser by its name or as it is."""
    if isinstance(optimizer, str):
        optimizer = _OPTIMIZERS[validation.choice("optimizer", optimizer, _OPTIMIZERS)]()
    if not isinstance(optimizer, training._Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(f"optimizer is a {kind}, expected a name or an optimiser such as cylstm.Adam()")
    return optimizer


def _hooks(callbacks):
    """{name of a hook: functions}, those of checkpoints last: they keep what the others made of the epoch."""
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks is a {type(callbacks).__name__}, expected a list")
    hooks: dict = {name: [] for name in _HOOKS}
    for n, callback in enumerate(callbacks):
        if isinstance(callback, type) or not (callable(callback) or any(hasattr(callback, name) for name in _HOOKS)):
            what = f"the class {callback.__name__}" if isinstance(callback, type) else f"a {type(callback).__name__}"
            raise TypeError(f"callbacks[{n}] is {what}, expected a function or an object with {' or '.join(_HOOKS)}")
    for callback in sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint)):
        found = {name: getattr(callback, name) for name in _HOOKS if hasattr(callback, name)}
        for name, hook in (found or {"on_epoch_end": callback}).items():
            hooks[name].append(hook)
    return hooks


def _orders(shuffle, count, training):
    """For each epoch the order of the rows; None: as they are."""
    if isinstance(shuffle, (bool, np.bool_)):
        while True:
            yield training.rng.permutation(count) if shuffle else None
    for epoch, order in enumerate(shuffle):
        found = np.asarray(order)
        if found.dtype.kind not in "iu" or found.shape != (count,) or (np.sort(found) != np.arange(count)).any():
            raise ValueError(f"shuffle[{epoch}] is not a permutation of 0 to {count - 1}, an order of the {count} rows")
        if epoch >= training.epoch:
            yield found
    raise _too_few(training.epoch, training.epochs)


def _too_few(count, epochs):
    return ValueError(f"shuffle has {count} permutations, expected one for each of {epochs} epochs")


class _Gather:
    """Batches of rows in some order, in the same memory again and again."""

    def __init__(self, rows, batch_size):
        self.order = None
        self._rows = rows
        self._size = min(batch_size, len(rows))
        self._batch = rows.part(slice(0))  # the last one made
        self._pairs = []  # (all rows of an array, its memory in the batch)

    def __call__(self, first):
        if self.order is None:
            return self._rows.part(slice(first, first + self._size))
        chosen = self.order[first : first + self._size]
        if len(chosen) != len(self._batch):
            self._pairs = []
            self._batch = self._rows.map(functools.partial(self._memory, len(chosen)))
        for array, memory in self._pairs:
            array.take(chosen, 0, memory, "clip")  # the order is checked, and with "raise" NumPy would copy once more
        return self._batch

    def _memory(self, size, array):
        memory = np.empty((size, *array.shape[1:]), array.dtype)
        self._pairs.append((array, memory))
        return memory


def _chunks(rows, size):
    """The rows cut along time, as far as one of them is valid."""
    if size is None:
        yield rows
        return
    steps = rows.x.shape[1]
    for t in range(0, steps if rows.lengths is None else rows.lengths.max(), size):
        chunk = slice(t, t + size)
        lengths = None if rows.lengths is None else np.clip(rows.lengths - t, 0, min(size, steps - t))
        weight = rows.weight
        if weight is not None and weight.ndim > 1 and weight.shape[1] == steps:
            weight = weight[:, chunk]
        yield _Rows(rows.x[:, chunk], rows.y[:, chunk], lengths, weight)


def _check_carry(model, rows, name):
    """That states can be handed on."""
    if isinstance(rows.x, tuple):
        raise ValueError(f"{name} is given, but the model has more than one input")
    for leaf in model._leaves:
        if isinstance(leaf, Reverse) or getattr(leaf, "bidirectional", False) or getattr(leaf, "reverse", False):
            raise ValueError(f"{name} is given, but {leaf!r} goes backwards in time: its state can not be handed on")


def _check_tbptt(model, rows, tbptt):
    tbptt = validation.size("tbptt", tbptt)
    _check_carry(model, rows, "tbptt")
    count, steps = rows.x.shape[:2]
    for size in (steps, min(tbptt, steps)):  # a Repeat may fit the whole by chance
        shape = (count, size, *rows.x.shape[2:])
        made = model._output_shape(shape)
        if len(made) < 3 or made[1] != size:
            raise ValueError(
                f"tbptt is given, but the model makes {made} of {shape}, not an output for each step: there is no time "
                "axis to cut behind a Last, Final, Flatten or Repeat"
            )
    if rows.y.shape[:2] != (count, steps):
        found = f"y has shape {rows.y.shape}, expected ({count}, {steps}, ...)"
        raise ValueError(f"{found}: tbptt needs a target for each step")
    return tbptt


def _check_stateful(model, rows, shuffle, batch_size):
    _check_carry(model, rows, "stateful")
    if not isinstance(shuffle, (bool, np.bool_)) or shuffle:
        raise ValueError("stateful is True: a row goes on from that of the batch before, so give shuffle=False")
    if len(rows) % batch_size:
        raise ValueError(f"stateful is True, but batch_size={batch_size} does not divide the {len(rows)} rows")


class _Bar:
    """tqdm's bar over all batches of all epochs."""

    def __init__(self, training):
        from tqdm.auto import tqdm

        total, done = (epochs * training.batches for epochs in (training.epochs, training.epoch))
        self._bar = tqdm(total=total, initial=done, unit="batch")
        self._training = training
        self._written = -math.inf

    def update(self):
        now = time.monotonic()
        if now - self._written >= _BAR_SECONDS:
            self._write(self._training.epoch + 1, refresh=False)
            self._written = now
        self._bar.update()

    def end_epoch(self):
        self._write(self._training.epoch, refresh=True)

    def _write(self, epoch, refresh):
        self._bar.set_description_str(f"epoch {epoch}/{self._training.epochs}", refresh=False)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self._training.logs.items())
        self._bar.set_postfix_str(numbers, refresh=refresh)

    def close(self):
        self._bar.close()
