"""Pictures of training: its history, the gates of a layer at work, and how far back its gradient reaches.

The numbers come from :func:`gate_values` and :func:`gradient_norms`, which may be used without a picture. ``history``,
``gates`` and ``gradient_flow`` draw with matplotlib (``pip install 'cylstm[plot]'``), imported when one of them is
called. Knows layers by their options; knows no equations: gates are the reference's, gradients the layer's own.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from . import reference, validation
from .layers import GRU, LSTM, RNN, JordanRNN
from .tape import Tape

__all__ = ["gate_values", "gates", "gradient_flow", "gradient_norms", "history"]


class _Cell(NamedTuple):
    """What is to be known of a class of layers: the reference's function, and (layer) -> {letter: its activation}."""

    forward: str
    activations: Callable


def _of_tuple(letters, places):
    """Those that a layer has in one tuple."""
    return lambda layer: {k: layer.activations[place] for k, place in zip(letters, places, strict=True)}


_CELLS = {  # JordanRNN is an RNN, so it comes first
    LSTM: _Cell("lstm_forward", _of_tuple("ifogh", (0, 0, 0, 1, 2))),
    GRU: _Cell("gru_forward", _of_tuple("rznh", (0, 0, 1, 1))),
    JordanRNN: _Cell("jordan_forward", lambda layer: {"a": layer.nonlinearity, "h": layer.activation}),
    RNN: _Cell("rnn_forward", lambda layer: {"h": layer.nonlinearity}),
}
# The reference takes these by the same names and reads the others off the parameters.
_OPTIONS = (
    "activation", "activations", "clip", "coupled", "layer_norm", "merge", "nonlinearity", "reset_after", "reverse",
)  # fmt: skip
_TITLES = {
    "i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o", "c": "cell state c",
    "r": "reset gate r", "z": "update gate z", "n": "candidate n", "a": "hidden units a", "h": "state h",
}  # fmt: skip
_BOUNDS = {"sigmoid": (0.0, 1.0), "hard_sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0)}


def _cell_of(recurrent):
    for kind, cell in _CELLS.items():
        if isinstance(recurrent, kind):
            return cell
    raise TypeError(f"recurrent is a {type(recurrent).__name__}, expected a recurrent layer such as cylstm.LSTM")


def _sequence(recurrent, x):
    """x as (T, B, I), T at least 1, and whether it came with a batch axis."""
    checked, batched = validation.sequence(x, recurrent.dtype, recurrent.input_size, recurrent.batch_first)
    if checked.shape[0] == 0:
        raise ValueError(f"x has shape {x.shape}, expected at least one step")
    return checked, batched


def _states(recurrent, state, batch, batched):
    """The arrays of a state, (L*D, B, ...) each; for None those of the default state, or zeros."""
    outer = (recurrent.num_layers * recurrent._directions, batch)
    checked = validation.states(
        "state", state, recurrent._states, recurrent.dtype, outer, recurrent._widths, batched
    )
    zeros = recurrent._zeros(batch)
    return checked or [part + default for part, default in zip(zeros, recurrent._default or zeros, strict=True)]


def gate_values(recurrent, x, state=None, *, layer=0, direction=0):
    """What every gate and state of a recurrent layer was at every step of one sequence.

    Parameters
    ----------
    recurrent : LSTM, GRU, RNN or JordanRNN
        With any options. What is shown is inference: no dropout, zoneout's expectation.
    x : ndarray, shape (seq_len, input_size)
        One sequence, unbatched, of the layer's dtype.
    state : tuple (h_0, c_0), or h_0, optional
        As ``recurrent.forward`` takes it, unbatched.
    layer, direction : int, default 0
        Which of a stack; direction 1 is the second one of a bidirectional layer.

    Returns
    -------
    dict of str to ndarray, shape (seq_len, hidden_size)
        LSTM: i, f, g, o, c, h; GRU: r, z, n, h; RNN: h; JordanRNN: a, its hidden units, and h, its output. In the order
        in which a step makes them, at their own times in reverse too; of the layer's dtype. h has proj_size or
        output_size units where there is one.

    Raises
    ------
    TypeError, ValueError
        If ``recurrent`` is no recurrent layer, x no sequence of it with at least one step, or there is no such layer or
        direction.

    Notes
    -----
    Computed by :mod:`cylstm.reference`, in float64: what the compiled layer computes, but for its rounding.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> lstm = cylstm.LSTM(3, 4, forget_bias=20.0, rng=0)
    >>> values = cylstm.plot.gate_values(lstm, np.ones((5, 3), np.float32))
    >>> list(values), values["f"].shape, bool((values["f"] > 0.999).all())
    (['i', 'f', 'g', 'o', 'c', 'h'], (5, 4), True)
    """
    cell = _cell_of(recurrent)
    checked, batched = _sequence(recurrent, x)
    if batched:
        raise ValueError(f"x has shape {x.shape}, expected (seq_len, input_size={recurrent.input_size}): one sequence")
    states = [part.astype(np.float64) for part in _states(recurrent, state, 1, batched)]
    validation.index("layer", layer, recurrent.num_layers, "num_layers")
    validation.index("direction", direction, recurrent._directions, "num_directions")
    with np.errstate(over="ignore", invalid="ignore"):  # as the layer, which does not warn
        _, _, cache = getattr(reference, cell.forward)(
            {name: value.astype(np.float64) for name, value in recurrent.parameters.items()},
            checked.astype(np.float64),
            tuple(states) if len(states) > 1 else states[0],
            noise={name: getattr(recurrent, name) for name in ("zoneout_h", "zoneout_c") if hasattr(recurrent, name)},
            **{name: getattr(recurrent, name) for name in _OPTIONS if hasattr(recurrent, name)},
        )
    values = reference.gate_values(cache, layer, direction)
    return {letter: value[:, 0].astype(recurrent.dtype) for letter, value in values.items()}


def gradient_norms(recurrent, x, dy=None, state=None):
    """The norm of the gradient of a loss with respect to the state after each step.

    How it falls, or grows, from the last step to the first is the vanishing, or exploding, gradient [1]_.

    Parameters
    ----------
    recurrent : LSTM, GRU, RNN or JordanRNN
        In one direction. Inference is differentiated: no dropout, zoneout's expectation.
    x : ndarray, shape (seq_len, input_size)
        Or a batch of sequences in the layer's layout; the norms are over all of it then.
    dy : ndarray, shaped like ``y``, optional
        dL/dy. If omitted, the loss is the sum of the y of the step that the layer does last.
    state : tuple (h_0, c_0), or h_0, optional
        As ``recurrent.forward`` takes it.

    Returns
    -------
    dict of str to ndarray of float64, shape (num_layers, seq_len + 1)
        "h" and, of an LSTM, "c". Column t is that of the state after t steps, from all that used it: what came after
        and, of the last layer's h, its own y. Column 0 is of the initial state, the last one of the final state. h and
        c are taken apart: dL/dc_t has no part that comes through h_t.

    Raises
    ------
    TypeError, ValueError
        If ``recurrent`` is no recurrent layer or a bidirectional one, x is no sequence of it with at least one step, or
        dy is not shaped like y.

    Notes
    -----
    One forward of one step after the other, each on a tape of its own, then one backward after the other, each of
    which hands its ``dstate`` to the one before: O(seq_len) of time, and of memory for the tapes.

    References
    ----------
    .. [1] S. Hochreiter, Y. Bengio, P. Frasconi, J. Schmidhuber, "Gradient flow in recurrent nets: the difficulty of
       learning long-term dependencies", in: A Field Guide to Dynamical Recurrent Neural Networks, IEEE Press (2001).

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> rnn = cylstm.RNN(1, 1, nonlinearity="linear", bias=False, rng=0)
    >>> with rnn.writable() as p:
    ...     p["weight_hh_l0"][:] = 0.5
    >>> cylstm.plot.gradient_norms(rnn, np.ones((3, 1), np.float32))["h"].tolist()
    [[0.125, 0.25, 0.5, 1.0]]
    """
    _cell_of(recurrent)
    if recurrent.bidirectional:
        raise ValueError("recurrent is bidirectional, expected one direction: two do not take their steps together")
    shape, dtype = np.shape(x), recurrent.dtype
    x, batched = _sequence(recurrent, x)
    seq_len, batch, _ = x.shape
    times = range(seq_len)[::-1] if recurrent.reverse else range(seq_len)
    if dy is None:
        dy = np.zeros((seq_len, batch, recurrent._output_size), dtype)
        dy[times[-1]] = 1
    else:
        dy = validation.gradient("dy", dy, dtype, (*shape[:-1], recurrent._output_size))
        dy = _swapped(recurrent, dy) if batched else dy[:, None]
    states = _states(recurrent, state, batch, batched)
    tapes = []
    for t in times:
        tapes.append(Tape(training=False))
        one_step = _swapped(recurrent, x[t : t + 1])
        _, state = recurrent.forward(one_step, recurrent._as_state(states, batched=True), tape=tapes[-1])
        states = _as_list(state)

    dstates = [np.zeros_like(part) for part in states]
    norms = []
    for t in reversed(times):
        dstates[0][-1] += dy[t]  # y is the h of the last layer
        norms.append(_norms(dstates))
        dstates = _as_list(recurrent.backward(tapes.pop(), None, recurrent._as_state(dstates, batched=True)).dstate)
    norms.append(_norms(dstates))
    return dict(zip(recurrent._states, np.stack(norms[::-1], axis=-1), strict=True))


def _swapped(recurrent, array):
    """From time-major to the layer's layout, or back."""
    return array.swapaxes(0, 1) if recurrent.batch_first else array


def _as_list(state):
    return list(state) if isinstance(state, tuple) else [state]


def _norms(arrays):
    """Over batch and units of each array (L, B, units): (arrays, L)."""
    return np.array([np.linalg.norm(part.astype(np.float64), axis=(1, 2)) for part in arrays])


# Drawing ----------------------------------------------------------------------------------------


def _subplots(ax, panels, row_height):
    """(figure, a list of axes for each of ``panels``, which are names): new ones, one below the other, or ``ax``."""
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("cylstm.plot draws with matplotlib: pip install 'cylstm[plot]'") from error
        height = max(3.0, 0.7 + row_height * len(panels))
        figure, axes = plt.subplots(
            len(panels), squeeze=False, sharex=True, figsize=(7.5, height), layout="constrained"
        )
        return figure, list(axes[:, 0])
    axes = list(np.ravel(ax))
    if not all(hasattr(axis, "figure") for axis in axes):
        raise TypeError(f"ax is {ax!r}, expected matplotlib Axes, or a list of them")
    if len(axes) != len(panels):
        raise ValueError(f"ax has {len(axes)} axes, expected {len(panels)}: {', '.join(panels)}")
    return axes[0].figure, axes


def _whole_numbers(axis, most=10):
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def history(history, ax=None):
    """Draw what training recorded, epoch by epoch.

    Parameters
    ----------
    history : mapping of str to list of float
        One value for each epoch: "loss", "accuracy", ..., with "val_" before the name of those on validation data. A
        NaN leaves a gap.
    ax : matplotlib Axes, or a sequence of them, optional
        To draw on: one for the losses, one for each other metric, in the order of ``history``. A new figure if omitted.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError
        If ``history`` is not a mapping with strings for names, or ``ax`` is no Axes.
    ValueError
        If it is empty, an entry is not a list of numbers, or there are more or fewer axes than needed.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import cylstm
    >>> figure = cylstm.plot.history({"loss": [0.9, 0.4], "val_loss": [1.0, 0.6], "accuracy": [0.5, 0.8]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['loss', 'accuracy']
    """
    if not isinstance(history, Mapping):
        raise TypeError(f"history is a {type(history).__name__}, expected a dict of lists, one value for each epoch")
    if not history:
        raise ValueError("history is empty, expected at least one list")
    for name in history:
        if not isinstance(name, str):
            raise TypeError(f"history has the name {name!r}, expected strings")
    panels: dict[str, list] = {}
    for name in sorted(history, key=lambda name: not name.endswith("loss")):  # losses first; a sort is stable
        metric = "loss" if name.endswith("loss") else name.removeprefix("val_")
        panels.setdefault(metric, []).append(name)
    curves = {name: _curve(name, values) for name, values in history.items()}
    figure, axes = _subplots(ax, list(panels), row_height=2.2)
    for axis, (metric, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            epochs = np.arange(1, len(curves[name]) + 1)
            axis.plot(epochs, curves[name], marker=".", linestyle="--" if name.startswith("val_") else "-", label=name)
        axis.set_ylabel(metric)
        axis.grid(alpha=0.3)
        axis.legend()
        _whole_numbers(axis.xaxis)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel("epoch")
    return figure


def _curve(name, values):
    try:
        curve = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"history[{name!r}] is {values!r}, expected a list of numbers") from None
    if curve.ndim != 1:
        raise ValueError(f"history[{name!r}] has shape {curve.shape}, expected one number for each epoch")
    return curve


def gates(recurrent, x, state=None, *, layer=0, direction=0):
    """Draw the gates and states of a recurrent layer over one sequence, units by time, as colours.

    What a sigmoid or hard_sigmoid makes has the colours of 0 to 1, what a tanh or softsign makes those of -1 to 1, so
    that pictures can be compared. All else, c first of all, and what is beyond that (by an initial state, say) has the
    colours of its own largest magnitude.

    Parameters
    ----------
    recurrent, x, state, layer, direction
        As in :func:`gate_values`, which has the numbers.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        As :func:`gate_values`.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> figure = cylstm.plot.gates(cylstm.GRU(3, 4, rng=0), np.ones((5, 3), np.float32))
    >>> [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    ['reset gate r', 'update gate z', 'candidate n', 'state h']
    """
    values = gate_values(recurrent, x, state, layer=layer, direction=direction)
    figure, axes = _subplots(None, list(values), row_height=1.25)
    for axis, (letter, value) in zip(axes, values.items(), strict=True):
        low, high = _limits(recurrent, letter, value)
        # a sequence of colours for what goes from nothing to all, two that part at zero for what has a sign
        colours = "RdBu_r" if low < 0 else "viridis"
        image = axis.imshow(
            value.T, aspect="auto", interpolation="nearest",  # the default blurs units where there are many steps
            origin="lower", vmin=low, vmax=high, cmap=colours,
        )  # fmt: skip
        figure.colorbar(image, ax=axis, ticks=[low, (low + high) / 2, high], format="%.3g", pad=0.01, aspect=8)
        axis.set_title(_TITLES[letter], loc="left", fontsize="medium")
        axis.set_ylabel("unit")
        _whole_numbers(axis.yaxis, most=5)
    figure.align_ylabels(axes)
    _whole_numbers(axes[-1].xaxis)
    backwards = recurrent.reverse or direction == 1
    axes[-1].set_xlabel("time step t" + (", walked from the end" if backwards else ""))
    return figure


def _limits(recurrent, letter, value):
    """The range of the colours."""
    activation = _cell_of(recurrent).activations(recurrent).get(letter, "linear")  # c has none
    low, high = _BOUNDS.get(activation if isinstance(activation, str) else activation[0], (0.0, 0.0))
    finite = value[np.isfinite(value)]
    if low == high or (finite < low).any() or (finite > high).any():
        high = float(np.abs(finite).max(initial=0)) or 1.0
        low = -high
    return low, high


def gradient_flow(recurrent, x, dy=None, state=None, *, ax=None):
    """Draw how far back the gradient reaches: its norm with respect to the state after each step, on a log scale.

    Parameters
    ----------
    recurrent, x, dy, state
        As in :func:`gradient_norms`, which has the numbers. What is zero has no place on a log scale and is left out.
    ax : matplotlib Axes, optional
        To draw on. A new figure if omitted.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        As :func:`gradient_norms`.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> figure = cylstm.plot.gradient_flow(cylstm.LSTM(3, 4, rng=0), np.ones((5, 3), np.float32))
    >>> figure.axes[0].get_yscale(), len(figure.axes[0].lines)
    ('log', 2)
    """
    norms = gradient_norms(recurrent, x, dy, state)
    figure, (axis,) = _subplots(ax, ["gradient flow"], row_height=3.3)
    for letter, linestyle in zip(norms, ("-", "--"), strict=False):
        for layer, norm in enumerate(norms[letter]):
            label = rf"$\|\partial L / \partial {letter}_t\|$"
            if recurrent.num_layers > 1:
                label += f", layer {layer}"
            axis.plot(norm, linestyle, marker=".", markersize=3, label=label)
    if any((norm > 0).any() for norm in norms.values()):
        axis.set_yscale("log", nonpositive="mask")
    _whole_numbers(axis.xaxis)
    axis.set_xlabel("steps taken" + (" from the end of time" if recurrent.reverse else "") + ", 0 at the initial state")
    axis.set_ylabel("norm of the gradient")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
