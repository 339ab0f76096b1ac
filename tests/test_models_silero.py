"""examples/models/silero.py: silero-vad's probabilities by NumPy and cylstm. Most needs the package, of the extra
``models``."""

import importlib.util
import runpy
import wave
from pathlib import Path

import numpy as np
import pytest

from cylstm.interop.gates import reorder

EXAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "models" / "silero.py"))
missing = [name for name in ("silero_vad", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_the_package = pytest.mark.skipif(
    bool(missing), reason=f"no {', '.join(missing)}: pip install --no-deps silero-vad; pip install onnx onnxruntime"
)


@pytest.fixture(scope="module")
def path():
    return str(EXAMPLE["model_of_package"]())


@pytest.fixture(scope="module")
def frames():
    return EXAMPLE["frames_of"](EXAMPLE["speech"](10, np.random.default_rng(0)))


@pytest.fixture(scope="module")
def expected(path, frames):
    return EXAMPLE["by_onnxruntime"](path, frames)


@needs_the_package
def test_every_probability_of_a_recording_is_that_of_onnxruntime(path, frames, expected):
    detector = EXAMPLE["Detector"](path)
    heard = np.array([detector.hear(frame) for frame in frames])
    assert len(heard) == 312
    assert np.abs(heard - expected).max() <= 1e-5
    assert 0.4 < (expected > 0.5).mean() < 0.9  # it hears phrases, and pauses between them
    assert expected.min() < 0.01 and expected.max() > 0.99


@needs_the_package
def test_the_streamed_lstm_has_the_bits_of_the_whole_recording(path, frames):
    detector = EXAMPLE["Detector"](path)
    features = detector.features(frames)
    y, _ = detector.lstm.forward(features)
    assert np.array([detector.stream.step(x) for x in features]).tobytes() == y.tobytes()


@needs_the_package
def test_another_order_of_gates_hears_otherwise(path, frames, expected):
    detector = EXAMPLE["Detector"](path)
    with detector.lstm.writable() as parameters:
        for name, value in parameters.items():
            parameters[name] = reorder(value, "ifgo", "iofg")
    heard = detector.probability(detector.lstm.forward(detector.features(frames))[0])
    assert np.abs(heard - expected).max() > 0.1


@needs_the_package
def test_the_example_prints_what_it_checked(capsys):
    assert EXAMPLE["main"](["--seconds", "10"]) == 0
    printed = capsys.readouterr().out
    assert "312 frames, 10.0 s" in printed
    assert "every probability is onnxruntime's within 1e-05: yes" in printed and "NO" not in printed
    assert "times cylstm's" in printed


def test_without_the_packages_the_example_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert EXAMPLE["main"]([]) == 2
    wanted = "pip install --no-deps silero-vad && pip install onnx onnxruntime"
    assert wanted in capsys.readouterr().err


def write(path, samples, rate=16000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_a_recording_is_read_and_cut_into_frames_that_see_the_end_of_the_one_before(tmp_path):
    write(tmp_path / "a.wav", np.arange(1100))
    sound = EXAMPLE["recording"](tmp_path / "a.wav")
    assert sound.dtype == np.float32 and sound[1099] == 1099 / 32768
    frames = EXAMPLE["frames_of"](sound)
    assert frames.shape == (2, 576)
    assert np.array_equal(frames[1] * 32768, np.arange(448, 1024))
    assert np.array_equal(frames[0, :64], np.zeros(64))


def test_another_file_is_refused_by_name(tmp_path):
    write(tmp_path / "slow.wav", np.arange(9), rate=8000)
    (tmp_path / "text.wav").write_text("no sound")
    for name, words in (("slow.wav", "8000 Hz, 1 channels, 16 bits, expected 16000"), ("text.wav", "is no .wav file")):
        with pytest.raises(ValueError, match=f"{name} .*{words}"):
            EXAMPLE["recording"](tmp_path / name)
