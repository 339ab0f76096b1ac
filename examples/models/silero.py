"""silero-vad hears where somebody speaks: frames of 32 ms, convolutions, an LSTM, a probability. Without a framework.

The LSTM is taken out of the package's ONNX model by ``cylstm.from_onnx`` and streamed frame by frame; the convolutions
before it and after it are NumPy, below. The probabilities of a whole recording are held against onnxruntime's, which
runs the same file. The package must be there (its own dependencies, PyTorch among them, need not):

    pip install --no-deps silero-vad
    pip install onnx onnxruntime
    python examples/models/silero.py [--wav FILE]

The recording is made here, so that nobody's voice is needed: a glottal pulse train through the formants of vowels, hiss
for consonants, and pauses. ``--wav`` takes another: 16 kHz, mono, 16 bits.
"""

import argparse
import importlib.util
import statistics
import sys
import time
import wave
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

import cylstm
from cylstm.interop import gates
from cylstm.interop import onnx as onnx_models

RATE, FRAME, CONTEXT = 16000, 512, 64  # samples: of a second, of a frame, and of the frame before that it sees too
ALLOWED = 1e-5
ROUNDS, TIMED_FRAMES = 9, 300

# Formants in Hz (Peterson and Barney 1952, men), the bandwidths of their resonators, and a fourth that all have.
VOWELS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410)}
BANDWIDTHS, FOURTH = (70, 90, 120, 200), 3500
BLOCK = RATE // 100  # samples in which the vocal tract stands still


# The recording


def speech(seconds, rng):
    """Something like speech: phrases of five to nine syllables, and pauses; float32 within -1 and 1."""
    blocks = 100 * seconds
    formants, loud, hiss, pitch = np.full((blocks, 3), 500.0), *np.zeros((3, blocks))
    at = 40
    while at < blocks - 40:
        start = at
        for _ in range(rng.integers(5, 10)):
            consonant, vowel = rng.integers(4, 9), rng.integers(9, 18)
            syllable = slice(at, at + consonant + vowel)
            target = np.array(VOWELS[rng.choice(list(VOWELS))])
            glide = np.clip(np.arange(consonant + vowel) / (consonant + 4), 0, 1)[: len(loud[syllable]), None]
            formants[syllable] = formants[at - 1] + glide * (target - formants[at - 1])
            hiss[at : at + consonant] = rng.choice([0, 0.05, 0.12])
            voiced = slice(at + consonant, syllable.stop)
            loud[voiced] = np.sqrt(np.hanning(vowel + 2)[1:-1])[: len(loud[voiced])]
            at = min(syllable.stop, blocks - 1)
        pitch[start:at] = np.linspace(150, 95, at - start) * (1 + 0.05 * np.sin(np.arange(at - start) / 12))
        at += rng.integers(50, 90)
    noise = rng.standard_normal(BLOCK * blocks)
    pulses = np.diff(np.floor(np.cumsum(np.repeat(pitch, BLOCK) / RATE)), prepend=0) > 0
    source = np.repeat(loud, BLOCK) * (lfilter([1], [1, -0.9], pulses.astype(float)) + 0.02 * noise)
    voice = vocal_tract(source, formants)
    rush = lfilter([1, -0.9], [1], noise) * np.repeat(hiss, BLOCK)
    return (0.5 * voice / np.abs(voice).max() + 0.3 * rush + 0.0005 * noise).astype(np.float32)


def vocal_tract(source, formants):
    """The source through four resonators, one after the other."""
    voice, memory = np.empty_like(source), [np.zeros(2)] * 4
    for k, frequencies in enumerate(formants):
        part = slice(k * BLOCK, (k + 1) * BLOCK)
        sound = source[part]
        for n, (frequency, bandwidth) in enumerate(zip((*frequencies, FOURTH), BANDWIDTHS, strict=True)):
            radius = np.exp(-np.pi * bandwidth / RATE)
            poles = [1, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2]
            sound, memory[n] = lfilter([sum(poles)], poles, sound, zi=memory[n])
        voice[part] = sound
    return voice


def recording(path):
    """The samples of a .wav file, float32 within -1 and 1."""
    try:
        with wave.open(str(path)) as file:
            form = file.getframerate(), file.getnchannels(), file.getsampwidth()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no .wav file: {error}") from None
    if form != (RATE, 1, 2):
        raise ValueError(f"{path} has {form[0]} Hz, {form[1]} channels, {8 * form[2]} bits, expected {RATE}, 1, 16")
    return np.frombuffer(content, "<i2").astype(np.float32) / 32768


def frames_of(sound):
    """(N, 576): each frame behind the end of the one before it."""
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    return np.concatenate([before, frames], axis=1)


# The detector


class Detector:
    """silero-vad at 16 kHz, frame by frame."""

    def __init__(self, path):
        import onnx

        graph = onnx.load(path).graph
        # The model is one If: what follows "sr is 16000" is the one for 16 kHz.
        branch = next(a.g for node in graph.node if node.op_type == "If" for a in node.attribute if "then" in a.name)
        constants = {
            node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
            for node in branch.node if node.op_type == "Constant"
        }  # fmt: skip

        def named(end):
            (value,) = (value for name, value in constants.items() if name.endswith(end))
            return value

        self.basis = named("stft.forward_basis_buffer")[:, 0]  # (258, 256): 129 cosines, 129 sines
        self.encoder = [
            (named(f"encoder.{n}.reparam_conv.weight"), named(f"encoder.{n}.reparam_conv.bias"), stride)
            for n, stride in enumerate((1, 2, 2, 1))
        ]
        self.weight, self.bias = named("decoder.decoder.2.weight")[0, :, 0], named("decoder.decoder.2.bias")[0]
        node = next(entry.name for entry in onnx_models.describe(path) if "then_branch" in entry.name)
        self.lstm = cylstm.from_onnx(path, node=node)
        self.stream = self.lstm.stream()

    def features(self, frames):
        """What the LSTM sees of frames (N, 576): (N, 128)."""
        padded = np.pad(frames, ((0, 0), (0, CONTEXT)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 256, axis=1)[:, ::128]  # (N, 4, 256)
        real, imaginary = np.split(windows @ self.basis.T, 2, axis=2)
        x = np.sqrt(real**2 + imaginary**2).swapaxes(1, 2)  # (N, 129, 4): magnitudes of the short-time spectrum
        for weight, bias, stride in self.encoder:
            x = np.maximum(convolution(x, weight, bias, stride), 0)
        return x[:, :, 0]

    def probability(self, h):
        """Of speech, from the LSTM's output (..., 128)."""
        return 1 / (1 + np.exp(-(np.maximum(h, 0) @ self.weight + self.bias)))

    def hear(self, frame):
        """The probability of the next frame, (576,)."""
        return self.probability(self.stream.step(self.features(frame[None])[0]))


def convolution(x, weight, bias, stride):
    """x (N, in, T), weight (out, in, 3), zeros on both sides: (N, out, T / stride)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)[:, :, ::stride]  # (N, in, T', 3)
    return np.einsum("nitk,oik->not", windows, weight, optimize=True) + bias[:, None]


def by_onnxruntime(path, frames):
    """The probabilities that the package's model gives, frame by frame as it is meant to be run."""
    session = one_thread(path)
    state, found = np.zeros((2, 1, 128), np.float32), []
    for frame in frames:
        y, state = session.run(None, {"input": frame[None], "state": state, "sr": np.array(RATE)})
        found.append(y[0, 0])
    return np.array(found)


def one_thread(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# The time of the recurrent part


def steppers(lstm):
    """{name: a function of x (128,) that makes one step}, of what is installed; all of them with one thread."""
    stream = lstm.stream()
    found = {"cylstm": stream.step, "onnxruntime": onnx_step(lstm)}
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    return found | torch_steps(torch, lstm)


def onnx_step(lstm):
    """A session of nothing but the LSTM node."""
    from onnx import TensorProto, helper, numpy_helper

    size = lstm.hidden_size
    p = {name: gates.reorder(value, "ifgo", "iofg") for name, value in lstm.parameters.items()}
    bias = np.concatenate([p["bias_ih_l0"], p.get("bias_hh_l0", np.zeros_like(p["bias_ih_l0"]))])
    weights = {"W": p["weight_ih_l0"][None], "R": p["weight_hh_l0"][None], "B": bias[None]}
    outer = {"x": [1, 1, lstm.input_size], "h": [1, 1, size], "c": [1, 1, size]}

    def values(names, shapes):
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(names, shapes, strict=True)
        ]

    inputs = ["x", "W", "R", "B", "", "h", "c"]
    node = helper.make_node("LSTM", inputs, ["", "h_n", "c_n"], hidden_size=size)
    graph = helper.make_graph(
        [node], "lstm", values(outer, outer.values()), values(("h_n", "c_n"), list(outer.values())[1:]),
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = one_thread(model.SerializeToString())
    state = [np.zeros(outer["h"], np.float32), np.zeros(outer["c"], np.float32)]

    def step(x):
        state[:] = session.run(None, {"x": x[None, None], "h": state[0], "c": state[1]})
        return state[0][0, 0]

    return step


def torch_steps(torch, lstm):
    cell, layer = torch.nn.LSTMCell(lstm.input_size, lstm.hidden_size), torch.nn.LSTM(lstm.input_size, lstm.hidden_size)
    arrays = {name: torch.tensor(np.array(value)) for name, value in lstm.parameters.items()}
    arrays.setdefault("bias_hh_l0", torch.zeros_like(arrays["bias_ih_l0"]))
    layer.load_state_dict(arrays)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in arrays.items()})
    state = {cell: None, layer: None}

    def by_cell(x):
        with torch.inference_mode():
            state[cell] = cell(torch.from_numpy(x)[None], state[cell])
        return state[cell][0][0].numpy()

    def by_layer(x):
        with torch.inference_mode():
            y, state[layer] = layer(torch.from_numpy(x)[None, None], state[layer])
        return y[0, 0].numpy()

    return {"torch.nn.LSTMCell": by_cell, "torch.nn.LSTM": by_layer}


def compare_times(lstm, features):
    ways = steppers(lstm)
    some = list(features[:TIMED_FRAMES])
    outputs = {name: np.array([step(x) for x in some]) for name, step in ways.items()}
    for name, h in outputs.items():
        check(f"{name} steps to the same h within {ALLOWED:g}", np.abs(h - outputs["cylstm"]).max() <= ALLOWED)
    times = {name: [] for name in ways}
    for _ in range(ROUNDS):  # in turns, so that what else the machine does falls on all of them
        for name, step in ways.items():
            start = time.perf_counter()
            for x in some:
                step(x)
            times[name].append((time.perf_counter() - start) / len(some))
    print("microseconds per frame of the recurrent part, one thread, median:")
    for name, each in times.items():
        slower = statistics.median(a / b for a, b in zip(each, times["cylstm"], strict=True))
        print(f"  {name:20}{1e6 * statistics.median(each):8.2f}  {slower:5.1f} times cylstm's")


def check(what, holds):
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(f"not so: {what}")


def model_of_package():
    """The package's .onnx file, or None where it is not installed; nothing of it is imported."""
    found = importlib.util.find_spec("silero_vad")
    return None if found is None else Path(found.origin).parent / "data" / "silero_vad.onnx"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wav", metavar="FILE", help="16 kHz, mono, 16 bits; something like speech if omitted")
    parser.add_argument("--seconds", type=int, default=30, metavar="N", help="of that (default: %(default)s)")
    arguments = parser.parse_args(argv)
    path = model_of_package()
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if path is None or missing:
        wanted = " && ".join(
            (["pip install --no-deps silero-vad"] if path is None else [])
            + ([f"pip install {' '.join(missing)}"] if missing else [])
        )
        print(f"this example needs what is not installed: {wanted}", file=sys.stderr)
        return 2
    try:
        sound = recording(arguments.wav) if arguments.wav else speech(arguments.seconds, np.random.default_rng(0))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2

    detector, frames = Detector(str(path)), frames_of(sound)
    heard = np.array([detector.hear(frame) for frame in frames])
    expected = by_onnxruntime(str(path), frames)
    print(f"{len(frames):,} frames, {len(sound) / RATE:.1f} s, of which {(heard > 0.5).mean():.0%} is speech")
    print("".join(" .:-=+*#%@"[min(int(10 * p), 9)] for p in heard[: 3 * 100]))
    print(f"largest difference of a probability from onnxruntime's: {np.abs(heard - expected).max():.2g}")
    check(f"every probability is onnxruntime's within {ALLOWED:g}", np.abs(heard - expected).max() <= ALLOWED)
    features = detector.features(frames)
    compare_times(detector.lstm, features)
    return 0


if __name__ == "__main__":
    sys.exit(main())
