"""Models of Keras: a Sequential of our layers from a file or a live model; without Keras.

The public functions. What a config says is in ``keras_config``, what layers are in ``keras_layers``, files of weights
alone are in ``keras_weights``, and how files are made is in ``keras_files``. Nothing that a file holds is executed.
"""

import contextlib
import json
import sys

import numpy as np

from .. import validation
from ..layers import Layer
from . import Entry, keras_files
from .keras_config import MODELS, Described, Version, words
from .keras_layers import Place, alone, chain_plans, common_dtype, sequential_plan
from .keras_weights import all_arrays, kind_of, of_weights

# What a file of weights does not say and a caller may: a key of Keras' config, and the types of its values.
_SAYABLE = {
    "class_name": str, "activation": str, "recurrent_activation": str, "return_sequences": bool, "go_backwards": bool,
    "reset_after": bool, "merge_mode": (str, type(None)), "mask_zero": bool, "epsilon": float, "keras_version": str,
}  # fmt: skip


def from_keras(model_or_path, layer=None, *, dtype=None, **unsaid):
    """A model of Keras as ours, from a file or a live model: Keras is not needed.

    Files: ``.keras`` of Keras 3 (and 2.12 and later), ``.h5`` of a whole model by any Keras from 2.2 on, and files of
    weights alone, ``.weights.h5`` and ``.h5``. Layers: LSTM, GRU, SimpleRNN, their CuDNN forms and RNN of one of their
    cells; Bidirectional, TimeDistributed, Dense, Embedding, Masking, Dropout, Activation, ReLU, LeakyReLU, ELU,
    ThresholdedReLU, Softmax, LayerNormalization, RepeatVector, Flatten; models of these within each other. The layers
    must be a chain. Layers that do nothing in inference (GaussianNoise, SpatialDropout1D, ...) are left out.

    Parameters
    ----------
    model_or_path : str, path, or a model or layer of Keras
        What has ``get_config`` and ``get_weights`` counts as live.
    layer : str or a layer of ours, optional
        The name of one layer, which is returned alone: "bidirectional_1", "encoder/lstm_2" within a nested model. It
        may stand in any model, one that is not a chain too. For a file of weights alone also a model of ours with the
        shape of the one in Keras: a copy of it with the weights of the file is returned.
    dtype : {"float32", "float64"}, optional
        By default float64 if any weight is, otherwise float32.
    **unsaid
        For one layer of a file of weights alone, or of a model of a class of your own, what that does not say, in
        Keras' words: ``activation``,
        ``recurrent_activation``, ``go_backwards``, ``merge_mode``, ``mask_zero``, ``epsilon`` (Keras' defaults
        otherwise), ``return_sequences`` (True otherwise), and where a message asks for them ``reset_after``,
        ``class_name`` and ``keras_version`` ("2" or "3").

    Returns
    -------
    Sequential, or a layer
        A Sequential of a model, with the names of its layers; a layer by itself if ``layer`` is one, or what is given
        is one; several of ours, in a Sequential, where it needs them. Recurrent layers are batch-first, with
        ``bias="single"`` where there is one bias.

    Raises
    ------
    ValueError
        If a layer, or an option of one, has no counterpart (it is named), the model is not a chain, something must be
        said by name, or the file is damaged or hostile (it is named).
    OSError
        As the file system says it.
    ImportError
        If h5py is not installed and a file is given.

    Notes
    -----
    With ``return_sequences=False`` a layer becomes :class:`~cylstm.Final` of it, with ``go_backwards`` and
    ``return_sequences`` a :class:`~cylstm.Reverse` follows, as Keras returns such outputs in the order they were made.
    ``stateful`` makes no difference to the model: give the states that a forward returned to the next one, or use a
    stream. ``return_state`` makes none either: ``forward`` always returns states. Keras' dropout rates are kept for
    training, though Keras draws a mask for each gate where cylstm draws one for all.

    Examples
    --------
    >>> import cylstm
    >>> model = cylstm.from_keras("model.keras")                             # doctest: +SKIP
    >>> y = model.predict(x)                                                 # doctest: +SKIP
    >>> lstm = cylstm.from_keras("model.weights.h5", layer="lstm")           # doctest: +SKIP
    """
    if not isinstance(layer, (str, Layer, type(None))):
        raise TypeError(f"layer is a {type(layer).__name__}, expected the name of a layer, or a layer of cylstm")
    if dtype is not None:
        dtype = validation.dtype_of(dtype)
    unsaid = _unsaid(unsaid)
    if hasattr(model_or_path, "get_config") and hasattr(model_or_path, "get_weights"):
        return _of_config(_live(model_or_path), layer, dtype, unsaid)
    path = validation.path("model_or_path", model_or_path)
    with keras_files.opened(path) as saved, _naming(path):
        if _shows_weights_alone(saved.config):
            return of_weights(saved, layer, dtype, unsaid)
        described = Described.of(saved.config, saved.weights, Version.of(saved.version))
        if described.kind not in MODELS and layer is None:
            raise described.error(f"expected a {' or '.join(MODELS)}; a layer of it can be loaded alone, by layer=")
        return _of_config(described, layer, dtype, unsaid)


def describe(path):
    """The layers that a file holds, with their sizes, each an :class:`~cylstm.interop.Entry`.

    Layers of a nested model are called "encoder/lstm_2". Nothing but their shapes is read. Raises as
    :func:`from_keras` does.
    """
    path = validation.path("path", path)
    with keras_files.opened(path) as saved, _naming(path):
        if _shows_weights_alone(saved.config):
            return [Entry(name, kind_of(found) or "unknown", _sizes(found)) for name, found in saved.weights.listed()]
        described = Described.of(saved.config, saved.weights, Version.of(saved.version))
        return [Entry(name, layer.kind, _detail(layer)) for name, layer in described.walk()]


@contextlib.contextmanager
def _naming(path):
    """Errors of what a file says name the file."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error) if path in str(error) else f"{path}: {error}") from None


def _shows_weights_alone(config):
    """Whether a file has no config, or that of a class of somebody's own, which does not say what its layers are."""
    inner = config.get("config") if isinstance(config, dict) else None
    mine = isinstance(inner, dict) and "layers" not in inner and config.get("class_name") not in MODELS
    return config is None or mine


def _unsaid(given):
    """What a caller says of a file of weights, checked."""
    for name, value in given.items():
        if name not in _SAYABLE:
            raise TypeError(f"from_keras got {name}, expected options among {', '.join(_SAYABLE)}")
        if not isinstance(value, _SAYABLE[name]):
            raise TypeError(f"{name} is {value!r}, expected {words(_SAYABLE[name])}")
    if given.get("keras_version", "3") not in ("2", "3"):
        raise ValueError(f"keras_version is {given['keras_version']!r}, expected '2' or '3'")
    return given


def _detail(layer):
    """What a config and the weights say of a layer, in words."""
    words = [_sizes(layer.weights)]
    config = layer.config
    for inner in ("cell", "layer"):
        part = config.get(inner)
        if isinstance(part, dict) and isinstance(part.get("config"), dict):
            words.insert(0, str(part.get("class_name")))
            config = config | part["config"]
    words += [
        f"{key}={config[key]!r}" if not isinstance(config[key], bool) else key
        for key in ("units", "activation", "recurrent_activation", "merge_mode", *_FLAGS)
        if isinstance(config.get(key), (str, int)) and config[key] is not False
    ]
    return ", ".join(filter(None, words))


_FLAGS = ("return_sequences", "return_state", "go_backwards", "stateful", "reset_after", "mask_zero", "time_major")


def _sizes(weights):
    """The shapes and dtypes of a layer's arrays, in words."""
    arrays = all_arrays(weights)
    shapes = " ".join("x".join(map(str, array.shape)) for array in arrays)
    return ", ".join(filter(None, (shapes, *sorted({str(array.dtype) for array in arrays}))))


# Configs -----------------------------------------------------------------------------------------


def _of_config(described, name, dtype, unsaid):
    """The whole of what is described, or the layer called ``name`` in it."""
    if unsaid:
        raise ValueError(f"{', '.join(unsaid)} is given, but the model says it itself")
    if isinstance(name, Layer):
        raise ValueError("layer is a layer of cylstm, for a file of weights alone: expected the name of a layer")
    if name is not None:
        plan = alone(_found(described, name))
    elif described.kind not in MODELS:
        plan = alone(described)
    elif plans := chain_plans(described, Place()):
        plan = sequential_plan(plans)
    else:
        raise described.error("has no layers")
    return plan.make(dtype or common_dtype(plan.dtypes))


def _found(described, name):
    """The layer of this name, "encoder/lstm_1" or "lstm_1"."""
    if "layers" not in described.config:
        raise described.error("its config does not say of what layers it is made: save and load its weights alone")
    layers = list(described.walk())
    found = [layer for path, layer in layers if path == name] or [layer for _, layer in layers if layer.name == name]
    if len(found) != 1:
        names = ", ".join(path for path, _ in layers)
        many = f"there are {len(found)} layers" if found else "there is no layer"
        raise ValueError(f"{many} {name!r}, expected one of {names}")
    return found[0]


# Live models -------------------------------------------------------------------------------------


def _live(model):
    """A live model or layer, described."""
    kind = type(model)
    library = sys.modules.get(kind.__module__.partition(".")[0])
    version = getattr(library, "__version__", None)
    if kind.__module__.startswith("tensorflow"):  # whose own version is another matter; it has Keras 2 alone
        version = "2.4-tf"
    try:
        config = model.get_config()
    except NotImplementedError as error:
        raise ValueError(f"{kind.__name__} has no config: {error}") from None
    config = json.loads(json.dumps(config, default=lambda value: None))  # lists for tuples, as in a file
    entry = {"class_name": kind.__name__, "module": kind.__module__, "config": config}
    return Described.of(entry, _live_weights(model), Version.of(version))


def _live_weights(model):
    if hasattr(model, "layers"):
        return _LiveModel(model)
    return keras_files.Flat(model.name, [_live_array(model.name, array) for array in model.get_weights()])


def _live_array(name, array):
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    return keras_files.Array(name, array.shape, array.dtype, lambda: array)


class _LiveModel:
    """The weights of a live model."""

    def __init__(self, model):
        self._model = model

    def layers(self, entries):
        """The weights of each layer among ``entries``, pairs of (class, name)."""
        layers = {layer.name: layer for layer in self._model.layers}
        return [_live_weights(layers[name]) if name in layers else keras_files.Flat(name, []) for _, name in entries]
