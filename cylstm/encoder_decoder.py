"""EncoderDecoder: one model reads a sequence, another one writes a sequence from the states that it left.

Knows the two as Sequentials and hands states from one to the other, forwards and backwards; searches over the tokens
that the decoder may write. Knows no cell. Arrays are batch-first.

References
----------
.. [1] I. Sutskever, O. Vinyals, Q. V. Le, "Sequence to sequence learning with neural networks", NIPS 2014.
.. [2] Y. Wu et al., "Google's neural machine translation system", 2016, equation 14 without coverage,
   https://arxiv.org/abs/1609.08144
"""

import math
from itertools import chain

import numpy as np

from . import validation
from .layers import Recurrent
from .sequential import Model, Sequential, Summary
from .steps import Steps
from .tape import Gradients, check_tape
from .wrappers import Wrapper

_NAMES = ("y_in", "y_lengths")


class EncoderDecoder(Model):
    """Sequence to sequence [1]_: the final states of the encoder's layers are the initial ones of the decoder's.

    Parameters
    ----------
    encoder : Sequential, recurrent layer, or list of layers
        Reads x. What it makes of x besides its final states is not used. Of a Bidirectional each direction is one
        recurrent layer.
    decoder : Sequential, recurrent layer, or list of layers
        Writes y from those states and its own inputs. It has as many recurrent layers as the encoder, in their order,
        of the same states; none looks ahead. The states of an encoder's layer of two directions are put side by side,
        so the layer of the decoder is twice as wide.

    Raises
    ------
    TypeError
        If one of the two is none of these.
    ValueError
        If states do not fit (both layers are named), a layer of the decoder looks ahead, a layer is in both, dtypes
        differ, or layers do not make a Sequential.

    Notes
    -----
    Parameters are called as in the two models, with ``"encoder."`` or ``"decoder."`` in front. It is a layer to an
    optimiser, but not to a Sequential: it takes two inputs.

    Examples
    --------
    >>> import numpy as np, cylstm
    >>> model = cylstm.EncoderDecoder(
    ...     [cylstm.Embedding(9, 4, rng=0), cylstm.LSTM(4, 8, rng=1)],
    ...     [cylstm.Embedding(5, 4, rng=2), cylstm.LSTM(4, 8, rng=3), cylstm.Dense(8, 5, rng=4)],
    ... )
    >>> x, y_in = np.ones((2, 6), int), np.zeros((2, 3), int)
    >>> y, states = model.forward(x, y_in, lengths=[6, 4])
    >>> y.shape, list(model.parameters)[0]
    ((2, 3, 5), 'encoder.0.weight')
    >>> tokens, lengths = model.greedy(x, start=0, end=4, max_steps=7)
    >>> tokens.shape
    (2, 7)
    """

    _part_names = ("encoder", "decoder")

    def __init__(self, encoder, decoder):
        self._build(encoder, decoder)

    def _build(self, encoder, decoder, _arrays=None):
        pairs = [("encoder", _as_model("encoder", encoder)), ("decoder", _as_model("decoder", decoder))]
        dtype = self._gather(pairs)
        self._encoder_states, self._decoder_states = (
            [(name, leaf) for name, leaf in zip(model._leaf_names, model._leaves, strict=True)
             if isinstance(leaf, Recurrent)]
            for model in self._layers
        )  # fmt: skip
        _check_states(self._encoder_states, self._decoder_states)
        self._finish(dtype, self._layers)

    @property
    def encoder(self):
        """The Sequential that reads x."""
        return self._layers[0]

    @property
    def decoder(self):
        """The Sequential that writes y."""
        return self._layers[1]

    def _output_shape(self, shape):
        raise ValueError(f"{type(self).__name__} takes two inputs, and a Sequential has one for it")

    def summary(self):
        """As that of a Sequential: the layers of both, and their parameters.

        Returns
        -------
        Summary
        """
        return Summary(
            row._replace(name=f"{name}.{row.name}")
            for name, model in zip(self._names, self._layers, strict=True)
            for row in model.summary().rows
        )

    # Forwards and backwards

    def forward(self, x, y_in, lengths=None, y_lengths=None, tape=None):
        """Read x and write y, the decoder being given its inputs ("teacher forcing").

        Parameters
        ----------
        x : ndarray, shape (batch, seq_len, features)
            As the encoder takes it; (batch, seq_len) of integers where it begins with an Embedding.
        y_in : ndarray, shape (batch, steps, features)
            The decoder's inputs, as it takes them: in training usually what it shall write, one step late, behind a
            start token.
        lengths : array or list of int, shape (batch,), optional
            Valid steps of each row of x; the decoder goes on from the state after the last of them.
        y_lengths : array or list of int, shape (batch,), optional
            Valid steps of each row of y_in.
        tape : Tape, optional
            Filled with what :meth:`backward` needs, and makes this a training forward.

        Returns
        -------
        y : ndarray, shape (batch, steps, ...)
            What the decoder's last layer makes.
        states : list
            The decoder's final states, one entry for each of its layers, None where it has none.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> model = cylstm.EncoderDecoder(cylstm.GRU(3, 4, rng=0), cylstm.GRU(2, 4, rng=1))
        >>> x, y_in = np.ones((1, 5, 3), np.float32), np.zeros((1, 2, 2), np.float32)
        >>> y, _ = model.forward(x, y_in)
        >>> _, h_n = model.encoder[0].forward(x.swapaxes(0, 1))
        >>> bool((y[0] == model.decoder[0].forward(y_in[0], h_n[:, 0])[0]).all())
        True
        """
        x, y_in = self.encoder._typed(x), self.decoder._typed(y_in, "y_in")
        self.encoder._check_shape(x.shape)
        self.decoder._check_shape(y_in.shape, "y_in")
        validation.rows("y_in", y_in, len(x))
        steps = (
            None if lengths is None else self.encoder._steps(lengths, x.shape),
            None if y_lengths is None else self.decoder._steps(y_lengths, y_in.shape, _NAMES),
        )
        if tape is not None:
            check_tape(tape)
        y, states_n, _ = self._pass((x, y_in), None, steps, tape)
        return y, states_n

    def _run(self, x, state, steps, tapes):
        """As that of a layer, with x, y_in for ``x`` and the Steps of both, or None, for ``steps``."""
        x, y_in = x
        steps = steps or (None, None)
        states = self.decoder._take_states(iter(self._encode(x, steps[0], tapes[0])), True)
        return *self.decoder._pass(y_in, states, steps[1], tapes[1]), None

    def _encode(self, x, steps, tape=None):
        """The initial states of the decoder's recurrent layers, each as [h] or [h, c]."""
        _, states_n, _ = self.encoder._pass(x, None, steps, tape)
        found = self.encoder._check_state("states", states_n, len(x))
        return [
            [_side_by_side(part, leaf) for part in state]
            for (_, leaf), state in zip(self._encoder_states, found, strict=True)
        ]

    def backward(self, tape, dy):
        """Back-propagate through the forward that ``tape`` recorded, and spend the tape.

        Parameters
        ----------
        tape : Tape
            Of the last ``forward(x, y_in, tape=tape)``.
        dy : ndarray
            dL/dy, shaped like y.

        Returns
        -------
        Gradients
            ``dx`` is a list of two, with respect to x and to y_in, None for integers; ``dstate`` is None;
            ``parameters`` of both models.

        Raises
        ------
        RuntimeError
            If the tape is empty, spent or another layer's, or parameters were changed since.
        ValueError, TypeError
            If dy has the wrong shape or dtype. The tape is not spent then.
        ImportError
            If a layer is a Dense and SciPy is not installed.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> model = cylstm.EncoderDecoder(cylstm.GRU(3, 4, rng=0), cylstm.GRU(2, 4, rng=1))
        >>> tape = cylstm.Tape()
        >>> x, y_in = np.ones((1, 5, 3), np.float32), np.zeros((1, 2, 2), np.float32)
        >>> y, _ = model.forward(x, y_in, tape=tape)
        >>> [dx.shape for dx in model.backward(tape, y).dx]
        [(1, 5, 3), (1, 2, 2)]
        """
        check_tape(tape)
        with tape.use():
            record = self._look(tape)
            of_encoder, of_decoder = record.parts
            decoder = self.decoder.backward(of_decoder, dy)
            tape.spend()
            dstates = self.decoder._check_state("dstate", decoder.dstate, record.shape[0])
            dstates = [
                [_one_after_the_other(part, leaf) for part in dstate]
                for (_, leaf), dstate in zip(self._encoder_states, dstates, strict=True)
            ]
            encoder = self.encoder.backward(of_encoder, None, self.encoder._take_states(iter(dstates), True))
        arrays = chain(encoder.parameters.values(), decoder.parameters.values())
        return Gradients([encoder.dx, decoder.dx], None, dict(zip(self._shapes, arrays, strict=True)))

    def _pass_backward(self, tape, dy, dstate):
        return self.backward(tape, dy)

    # Many rows: x is a pair (x, y_in), and lengths one of (lengths, y_lengths)

    def predict(self, x, batch_size=32, lengths=None):
        """The output for any number of rows, in batches, the decoder being given its inputs.

        Parameters
        ----------
        x : tuple (x, y_in)
            As for :meth:`forward`, but anything that NumPy takes for numbers; converted to the model's dtype.
        batch_size : int, default 32
            Rows of a batch, at least: the bits of a row are the same in any batch.
        lengths : tuple (lengths, y_lengths), optional
            As for :meth:`forward`; each may be None.

        Returns
        -------
        ndarray, shape (n, steps, ...)
            y of all rows; a new C-contiguous array.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or a number is too large for the dtype.

        Examples
        --------
        >>> import cylstm
        >>> model = cylstm.EncoderDecoder(cylstm.GRU(1, 4, rng=0), cylstm.GRU(1, 4, rng=1))
        >>> model.predict(([[[0.0], [1.0]]], [[[0], [1], [2]]])).shape
        (1, 3, 4)
        """
        x = self._numbers(x)
        y = np.empty(self.decoder._output_shape(x[1].shape), self._dtype)
        for rows, part, _ in self._passes(x, batch_size, lengths):
            y[rows] = part
        return y

    def _numbers(self, x):
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise TypeError(f"x is a {type(x).__name__}, expected a pair (x, y_in)")
        x, y_in = self.encoder._numbers(x[0]), self.decoder._numbers(x[1], "y_in")
        validation.rows("y_in", y_in, len(x))
        return x, y_in

    def _as_rows(self, x, lengths):
        x, y_in = self._numbers(x)
        if lengths is None:
            lengths = (None, None)
        elif not isinstance(lengths, (tuple, list)) or len(lengths) != 2:
            raise TypeError(f"lengths is a {type(lengths).__name__}, expected a pair (lengths, y_lengths)")
        x, lengths_of_x = self.encoder._as_rows(x, lengths[0])
        y_in, y_lengths = self.decoder._as_rows(y_in, lengths[1], _NAMES)
        return (x, y_in), (lengths_of_x, y_lengths)

    def _rows_pass(self, x, lengths, states, tape):
        steps = tuple(None if of_one is None else Steps(of_one) for of_one in lengths)
        return self._pass(x, states, steps, tape)

    def _passes(self, x, batch_size, lengths):
        """(slice of the rows, y, Steps of y) of each batch."""
        (x, y_in), lengths = self._as_rows(x, lengths)
        row = max(self.encoder._row(x.shape), self.decoder._row(y_in.shape))
        for rows in self._batches(len(x), row, batch_size):
            of_rows = tuple(None if of_one is None else of_one[rows] for of_one in lengths)
            y, _, steps = self._rows_pass((x[rows], y_in[rows]), of_rows, None, None)
            yield rows, y, steps

    # In use: the decoder is given what it wrote

    def greedy(self, x, start, end, max_steps, lengths=None):
        """Write tokens, at each step the most probable one: of those that are alike, that of the lowest index.

        For a decoder that begins with an Embedding and ends with a probability, or a logit, for each token.

        Parameters
        ----------
        x : array_like, shape (n, seq_len, features), or (n, seq_len) of integers
            As for :meth:`forward`, but anything that NumPy takes for numbers. All rows are one batch; a row is written
            to the same tokens in any other.
        start, end : int
            The token that the decoder is given first, and the one with which it ends.
        max_steps : int
            Tokens that a row has at most.
        lengths : array or list of int, shape (n,), optional
            Valid steps of each row of x.

        Returns
        -------
        tokens : ndarray of int, shape (n, max_steps)
            Filled up with ``end``.
        lengths : ndarray of int, shape (n,)
            Tokens before ``end``: max_steps of a row that was cut off.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or the decoder is not one of tokens or can not stream.
        FloatingPointError
            If an output is NaN or infinite.

        Examples
        --------
        See :class:`EncoderDecoder`.
        """
        # Of one beam the order of the outputs alone matters, which is that of logits also where they are probabilities.
        tokens, found, _ = self.beam(x, start, end, max_steps, 1, lengths, from_logits=True)
        return tokens, found

    def beam(self, x, start, end, max_steps, width=4, lengths=None, length_penalty=0.0, *, from_logits=False):
        """Write the tokens that are most probable together, as a beam search finds them.

        At each step the ``width`` best beginnings of a row are kept, those that have ended among them. Where some are
        alike, the one comes first whose parent came first, then the one of the lower token. Width 1 is :meth:`greedy`;
        a width of all sequences there are is an exhaustive search.

        Parameters
        ----------
        x, start, end, max_steps, lengths
            As for :meth:`greedy`.
        width : int, default 4
        length_penalty : float, default 0.0
            The exponent a in the score log p / ((5 + n) / 6)^a, with n tokens, ``end`` among them [2]_: 0 compares
            probabilities, more makes long sequences better.
        from_logits : bool, default False
            Whether the decoder's outputs have yet to go through a softmax.

        Returns
        -------
        tokens : ndarray of int, shape (n, max_steps)
            The best of each row, filled up with ``end``.
        lengths : ndarray of int, shape (n,)
            Tokens before ``end``.
        log_probability : ndarray of float64, shape (n,)
            Of the tokens and their ``end``, if there is one.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit, or the decoder is not one of tokens or can not stream.
        FloatingPointError
            If an output is NaN or infinite.

        Examples
        --------
        >>> import numpy as np, cylstm
        >>> model = cylstm.EncoderDecoder(
        ...     cylstm.RNN(1, 2, rng=0),
        ...     [cylstm.Embedding(4, 3, rng=1), cylstm.RNN(3, 2, rng=2), cylstm.Dense(2, 3, rng=3)],
        ... )
        >>> tokens, lengths, log_p = model.beam(np.ones((1, 2, 1)), start=3, end=0, max_steps=5, from_logits=True)
        >>> tokens.shape, lengths.shape, bool(log_p[0] < 0)
        ((1, 5), (1,), True)
        """
        x, lengths = self.encoder._as_rows(x, lengths)
        start, end, classes = self._check_tokens(start, end)
        max_steps = validation.size("max_steps", max_steps)
        width = validation.size("width", width)
        length_penalty = validation.number("length_penalty", length_penalty, 0.0, math.inf, high_open=True)
        from_logits = validation.flag("from_logits", from_logits)

        rows, each = len(x), min(width, classes)
        found = width * each  # candidates of a row
        stream = self.decoder.stream(rows * width)
        states = self._encode(x, None if lengths is None else Steps(lengths))
        stream._set([[part.repeat(width, axis=1) for part in state] for state in states], None)
        first_beam = width * np.arange(rows)[:, None]
        tokens = np.full((rows, width, max_steps), end)
        newest = np.full((rows, width), start)
        log_p = np.full((rows, width), -math.inf)  # that of a beam that there is not
        log_p[:, 0] = 0.0
        counts = np.zeros((rows, width), int)  # of tokens, the end among them
        ended = np.zeros((rows, width), bool)
        for t in range(max_steps):
            y = stream.step(newest.reshape(-1)).reshape(rows, width, classes)
            if not (y < math.inf).all():  # written so that NaN fails
                raise FloatingPointError(f"the decoder's output is NaN or infinite at step {t}")
            # The best of all are among the best of each, which are those of the greatest outputs.
            candidates = _greatest(y, each)
            gains = np.take_along_axis(_log_probabilities(y, from_logits), candidates, axis=-1)
            candidates[ended] = end
            gains[ended] = -math.inf  # one of them goes on for nothing, and the others are no beams
            gains[ended, 0] = 0.0
            counts += ~ended
            totals = log_p[..., None] + gains
            scores = totals / (((5 + counts) / 6) ** length_penalty)[..., None]
            best = np.argsort(-scores.reshape(rows, found), axis=1, kind="stable")[:, :width]
            parents = best // each
            newest = np.take_along_axis(candidates.reshape(rows, found), best, axis=1)
            log_p = np.take_along_axis(totals.reshape(rows, found), best, axis=1)
            counts = np.take_along_axis(counts, parents, axis=1)
            tokens = np.take_along_axis(tokens, parents[..., None], axis=1)
            tokens[..., t] = newest
            ended = newest == end
            # What goes on can only become less probable, so without a penalty an end that leads has won.
            if (ended.all() if length_penalty else ended[:, 0].all()):
                break
            if width > 1:
                stream._pick((first_beam + parents).reshape(-1))
        return tokens[:, 0], counts[:, 0] - ended[:, 0], log_p[:, 0]

    def _check_tokens(self, start, end):
        """Both, and the number of tokens that the decoder writes."""
        if not self.decoder._takes_integers:
            first = self.decoder._leaves[0]
            raise ValueError(f"the decoder begins with {first!r}, expected an Embedding: it shall read what it wrote")
        tokens = self.decoder._leaves[0].num_embeddings
        classes = self.decoder._output_shape((None, None))[-1]
        if classes > tokens:
            raise ValueError(f"the decoder writes {classes} tokens, but its Embedding reads {tokens}: expected as many")
        return (
            validation.index("start", start, tokens, "num_embeddings"),
            validation.index("end", end, classes, "features of y"),
            classes,
        )


def _as_model(name, layers):
    """A Sequential of what a caller gives as one."""
    if isinstance(layers, Sequential):
        return layers
    if isinstance(layers, (list, tuple)):
        return Sequential(layers)
    if isinstance(layers, (Recurrent, Wrapper)):
        return Sequential([layers])
    raise TypeError(
        f"{name} is a {type(layers).__name__}, expected a Sequential, a recurrent layer or a list of layers"
    )


def _check_states(encoder, decoder):
    """That the states which the one's layers leave are those with which the other's begin."""
    if not decoder:
        raise ValueError("decoder has no recurrent layer, so nothing of x would reach y")
    for name, leaf in decoder:
        if leaf._scheme.directions != (False,):
            raise ValueError(f"decoder layer {name!r}, {leaf!r}, looks ahead, at what is not yet written")
    if len(encoder) != len(decoder):
        raise ValueError(
            f"encoder has {len(encoder)} recurrent layers and decoder {len(decoder)}, expected as many: "
            "the final state of each is the initial one of its counterpart"
        )
    for (one_name, one), (other_name, other) in zip(encoder, decoder, strict=True):
        left, expected = _state_shapes(one), _state_shapes(other)
        if left != expected:
            beside = "" if one._directions == 1 else " (two directions side by side)"
            raise ValueError(
                f"encoder layer {one_name!r}, {one!r}, ends with {_words(left)}{beside}, but decoder layer "
                f"{other_name!r}, {other!r}, begins with {_words(expected)}"
            )


def _state_shapes(leaf):
    """{letter: (layers, width)} of its states, those of two directions side by side."""
    widths = (size * leaf._directions for _, size in leaf._widths)
    return {letter: (leaf.num_layers, width) for letter, width in zip(leaf._states, widths, strict=True)}


def _words(shapes):
    return " and ".join(f"{letter} ({layers}, batch, {width})" for letter, (layers, width) in shapes.items())


def _side_by_side(state, leaf):
    """(L*D, B, width) -> (L, B, D*width)"""
    if leaf._directions == 1:
        return state
    _, batch, width = state.shape
    shape = (leaf.num_layers, leaf._directions, batch, width)
    return state.reshape(shape).swapaxes(1, 2).reshape(leaf.num_layers, batch, leaf._directions * width)


def _one_after_the_other(dstate, leaf):
    """(L, B, D*width) -> (L*D, B, width)"""
    if leaf._directions == 1:
        return dstate
    layers, batch, both = dstate.shape
    width = both // leaf._directions
    apart = dstate.reshape(layers, batch, leaf._directions, width).swapaxes(1, 2)
    return apart.reshape(layers * leaf._directions, batch, width)


def _greatest(y, count):
    """The places of the ``count`` greatest on the last axis, in order; the lower one first of those that are alike."""
    if count == 1:
        return y.argmax(axis=-1)[..., None]
    return np.argsort(-y, axis=-1, kind="stable")[..., :count]


def _log_probabilities(y, from_logits):
    """In float64."""
    y = y.astype(np.float64)
    if from_logits:
        z = y - y.max(axis=-1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    if (y < 0).any():
        raise ValueError(f"the decoder's output has {y.min():.3g}, no probability: from_logits=True takes logits")
    with np.errstate(divide="ignore"):
        return np.log(y)
