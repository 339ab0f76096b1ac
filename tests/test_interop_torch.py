"""PyTorch's files, state dicts and names, without PyTorch: golden files, and files that are made here byte by byte.

tests/golden/interop/make_torch.py made the golden ones; tests/test_torch_modules.py has what needs PyTorch.
"""

import io
import itertools
import os
import pickle
import random
import runpy
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import cylstm
from cylstm.interop import torch_files, torch_pickle
from cylstm.interop.torch import describe, find_layers
from cylstm.interop.torch_files import read_state_dict

GOLDEN = Path(__file__).parent / "golden"
CASES = runpy.run_path(str(GOLDEN / "store.py"))["load"](GOLDEN / "interop" / "torch.npz")
compare = runpy.run_path(str(GOLDEN / "interop" / "torch_cases.py"))["compare"]

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00."


# Files, made by hand.


def name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key="0", size=6, kind="torch.FloatStorage", view=b""):
    return b"(" + text("storage") + name(kind) + text(key) + text("cpu") + number(size) + view + b"tQ"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, at=None):
    arguments = (at or storage()) + number(offset) + numbers(shape) + numbers(strides) + b"\x89}"
    return name("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def in_dict(value, key="w"):
    return b"\x80\x02}" + text(key) + value + b"s."


VALUES = np.arange(6, dtype=np.float32)


def zipped(pickled, entries=None, folder="archive/", compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries of one name
        archive.writestr(f"{folder}data.pkl", pickled)
        for key, content in (entries or [("data/0", VALUES.tobytes()), ("version", b"3\n")]):
            archive.writestr(folder + key, content)
    return stream.getvalue()


def legacy(pickled, keys=("0",), contents=(VALUES,)):
    content = MAGIC + pickled + b"\x80\x02](" + b"".join(map(text, keys)) + b"e."
    return content + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in contents)


@pytest.fixture
def read(tmp_path):
    """What a file of this content holds."""

    def read(content):
        path = tmp_path / "file.pt"
        path.write_bytes(content)
        return read_state_dict(path)

    return read


def refused(read, content, words):
    with pytest.raises(ValueError, match=r"file\.pt can not be read: .*" + words):
        read(content)


# Golden files


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_layer_of_a_file_computes_what_pytorch_computed(case, tmp_path):
    about, arrays = case
    path = tmp_path / f"file{about['suffix']}"
    path.write_bytes(arrays["file"].tobytes())
    compare(about, arrays, cylstm.load_torch(path, about["prefix"], **about["ask"]))


def test_the_golden_files_are_of_every_format_and_layout():
    parts = {part for case in CASES for part in case.split("-")[1:]}
    assert parts == {
        "plain", "nested", "shared", "transposed", "sliced", "parameters", "zipped", "deflated", "legacy",
        "legacy_protocol_4", "as_safetensors",
    }  # fmt: skip


def test_describe_lists_what_a_checkpoint_holds(tmp_path):
    case = next(case for case in CASES if case.startswith("lstm_proj") and "bidirectional" in case and "nested" in case)
    path = tmp_path / "file"
    path.write_bytes(CASES[case][1]["file"].tobytes())
    entries = {entry.name: entry for entry in describe(path)}
    layer = entries.pop("model_state.encoder.rnn")
    layers = CASES[case][0]["options"]["num_layers"]
    assert layer.kind == "LSTM"
    assert layer.detail.startswith(f"input_size=3, hidden_size=4, num_layers={layers}, ")
    assert ", bidirectional, proj_size=2, float" in layer.detail
    assert [(entry.name, entry.kind) for entry in entries.values()] in ([], [("optimizer.state.0", "tensors")])


def test_loading_imports_no_torch(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(zipped(in_dict(tensor(), "fc.weight")))
    script = (
        "import sys; sys.modules['torch'] = None\nimport cylstm\n"
        f"print(cylstm.load_torch({str(path)!r}, kind='Linear'))\n"
        "print(cylstm.to_torch_state_dict(cylstm.GRU(1, 1)).keys() == cylstm.GRU(1, 1).parameters.keys())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "Dense(3, 2, bias=False)\nTrue\n"


# What files hold


@pytest.mark.parametrize("form", [zipped, legacy])
def test_a_tensor_is_a_view_of_its_storage(form, read):
    assert read(form(in_dict(tensor())))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read(form(in_dict(tensor((3, 2), (1, 3)))))["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read(form(in_dict(tensor((2,), (3,), 2))))["w"].tolist() == [2, 5]
    assert read(form(in_dict(tensor((), (), 5))))["w"].tolist() == 5
    assert read(form(in_dict(tensor((0, 3), (3, 1)))))["w"].shape == (0, 3)
    assert read(form(in_dict(tensor((4, 2), (0, 1)))))["w"].tolist() == [[0, 1]] * 4


@pytest.mark.parametrize("form", [zipped, legacy])
@pytest.mark.parametrize(
    "shape, strides, offset",
    [((2, 3), (3, 1), 1), ((7,), (1,), 0), ((2,), (6,), 0), ((1,), (1,), 6), ((2, 3), (1 << 61, 1), 0),
     ((2,), (1,), (1 << 63) - 1), ((1 << 62, 1 << 62), (0, 0), 0), ((10**12,), (0,), 0), ((2,) * 65, (0,) * 65, 0),
     ((2, 3), (1,), 0)],
)  # fmt: skip
def test_a_view_beyond_its_storage_is_refused(form, shape, strides, offset, read):
    refused(read, form(in_dict(tensor(shape, strides, offset))), "")


def test_a_negative_size_is_refused(read):
    for shape, strides, offset in (((-1,), (1,), 0), ((2,), (-1,), 1), ((2,), (1,), -1)):
        refused(read, zipped(in_dict(tensor(shape, strides, offset))), "expected|integer")


@pytest.mark.parametrize("size", [7, 10**12, (1 << 63) - 1])
def test_a_storage_larger_than_its_bytes_is_refused(size, read):
    refused(read, zipped(in_dict(tensor(at=storage(size=size)))), "has 24 bytes, expected")
    refused(read, legacy(in_dict(tensor(at=storage(size=size)))), "has 24 bytes")


def test_every_dtype_is_read(read):
    stored = {
        "Double": np.array([1.5, -2, np.nan]), "Float": np.array([1.5, -2, np.inf], np.float32),
        "Half": np.array([1.5, -2, 6e-8], np.float16), "Long": np.array([1, -2, 1 << 62]),
        "Int": np.array([1, -2, 3], np.int32), "Short": np.array([1, -2, 3], np.int16),
        "Char": np.array([1, -2, 3], np.int8), "Byte": np.array([1, 2, 255], np.uint8),
        "Bool": np.array([True, False, True]), "ComplexFloat": np.array([1j, 2, 3], np.complex64),
        "ComplexDouble": np.array([1j, 2, 3]),
    }  # fmt: skip
    for (kind, array), order in itertools.product(stored.items(), ("little", "big")):
        content = array.astype(array.dtype.newbyteorder(order[0].replace("l", "<").replace("b", ">"))).tobytes()
        pickled = in_dict(tensor((3,), (1,), at=storage(size=3, kind=f"torch.{kind}Storage")))
        found = read(zipped(pickled, [("data/0", content), ("byteorder", order.encode())]))["w"]
        np.testing.assert_array_equal(found, array, strict=True)
        assert found.dtype.isnative


def test_bfloat16_is_the_upper_half_of_float32(read):
    values = np.array([1.0, -0.15625, 3.3895314e38, np.nan, np.inf, 1e-40], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    pickled = in_dict(tensor((6,), (1,), at=storage(kind="torch.BFloat16Storage")))
    found = read(zipped(pickled, [("data/0", halves.tobytes())]))["w"]
    np.testing.assert_array_equal(found.view(np.uint32), halves.astype(np.uint32) << 16)
    assert found.dtype == np.float32 and found[1] == -0.15625


def test_true_is_any_byte_but_zero(read):
    pickled = in_dict(tensor((3,), (1,), at=storage(size=3, kind="torch.BoolStorage")))
    assert read(zipped(pickled, [("data/0", b"\0\1\2")]))["w"].view(np.uint8).tolist() == [0, 1, 1]


def test_an_untyped_storage_has_the_dtype_of_its_tensor(read):
    at = storage(size=24, kind="torch.storage.UntypedStorage")
    pickled = tensor(at=at).replace(b"_v2", b"_v3")
    pickled = in_dict(pickled.removesuffix(b"tR") + name("torch.float32") + b"tR")
    assert read(zipped(pickled))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "function, before, behind",
    [
        ("torch._utils._rebuild_parameter", b"", b"\x88}\x87"),
        ("torch._utils._rebuild_parameter_with_state", b"(", b"\x88}}t"),
        ("torch._tensor._rebuild_from_type_v2", b"(" + name("torch._utils._rebuild_parameter") + name("torch.Tensor"),
         b"\x88}\x87}t"),
    ],
)  # fmt: skip
def test_parameters_and_tensors_with_attributes_are_tensors(function, before, behind, read):
    pickled = in_dict(name(function) + before + tensor() + behind + b"R}" + text("note") + b"K\x01sb")
    assert read(zipped(pickled))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_dicts_of_older_pythons(read):
    ordered = name("collections.OrderedDict") + b"](](" + text("w") + tensor() + b"ee\x85R"
    assert list(read(legacy(in_dict(ordered, "model")))) == ["model.w"]
    tensor_v1 = name("torch._utils._rebuild_tensor") + b"(" + storage() + b"K\x00K\x02\x85K\x03\x85tR"
    assert read(legacy(in_dict(tensor_v1)))["w"].tolist() == [0, 3]
    python_2 = b"\x80\x02}U\x01w" + tensor() + b"s."
    assert list(read(legacy(python_2))) == ["w"]


def test_shared_storages_are_shared(read):
    found = read(zipped(b"\x80\x02}(" + text("a") + tensor() + text("b") + tensor((3,), (2,)) + b"u."))
    assert np.shares_memory(found["a"], found["b"]) and found["b"].tolist() == [0, 2, 4]


def test_a_view_of_a_storage_in_an_old_file(read):
    view = b"(" + text("9") + number(2) + number(3) + b"t"
    pickled = in_dict(tensor((3,), (1,), at=storage(view=view)))
    assert read(legacy(pickled))["w"].tolist() == [2, 3, 4]
    view = b"(" + text("9") + number(4) + number(3) + b"t"
    refused(read, legacy(in_dict(tensor((3,), (1,), at=storage(view=view)))), "too few")


def test_names_within_names_are_joined(read):
    inner = b"]" + tensor() + b"a}K\x05" + tensor() + b"sa"
    assert list(read(zipped(in_dict(inner, "a")))) == ["a.0", "a.1.5"]
    assert list(read(zipped(b"\x80\x02" + tensor() + b"."))) == [""]


def test_what_is_no_tensor_is_left_out(read):
    data = {"epoch": 3, "text": "é", "none": None, "flags": (True, 1.5, b"bytes"), "set": {1, 2}, "long": 1 << 70}
    for protocol in (2, 3, 4, 5):
        pickled = pickle.dumps(data, protocol)
        assert read(zipped(pickled)) == {}
        assert read(legacy(pickled, keys=(), contents=())) == {}


def test_the_folder_has_any_name(read):
    for folder in ("archive/", "a b.c/", "../", ""):
        assert list(read(zipped(in_dict(tensor()), folder=folder))) == ["w"]


# What is wrong with files

EVIL = [
    name("os.system") + text("touch {marker}") + b"\x85R",
    name("posix.system") + text("touch {marker}") + b"\x85R",
    name("builtins.eval") + text("open('{marker}', 'w')") + b"\x85R",
    name("builtins.getattr") + name("torch._utils") + text("_rebuild_tensor") + b"\x86R",
    name("torch._utils._rebuild_tensor.__globals__"),
    name("torch.hub.load") + text("evil/repo") + b"\x85R",
    name("torch.load") + text("{marker}") + b"\x85R",
    name("torch.storage._load_from_bytes") + text("{marker}") + b"\x85R",
    name("numpy.load") + text("{marker}") + b"\x85R",
    name("cylstm.interop.torch_files.read_state_dict") + text("{marker}") + b"\x85R",
    name("builtins.set") + b"}b",  # BUILD
    name("collections.OrderedDict") + b")R}" + text("__class__") + name("os.system") + b"sb",
    name("collections.OrderedDict") + b"}" + text("__call__") + name("os.system") + b"sb)R",
    name("collections.OrderedDict") + b")\x81",  # NEWOBJ
    name("collections.OrderedDict") + b")}\x92",  # NEWOBJ_EX
    b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00",  # EXT1, EXT2, EXT4
    b"(" + text("touch {marker}") + b"ios\nsystem\n",  # INST
    b"(" + name("os.system") + text("touch {marker}") + b"o",  # OBJ
    b"Pevil\n", text("storage") + b"Q", b")Q", b"}Q", b"(" + text("module") + name("torch.Tensor") + b"NNtQ",
    b"(" + text("storage") + name("torch.float32") + text("0") + text("cpu") + b"K\x06tQ",
    b"(" + text("storage") + text("torch.FloatStorage") + text("0") + text("cpu") + b"K\x06tQ",
    b"(" + text("storage") + name("torch.FloatStorage") + b"}" + text("cpu") + b"K\x06tQ",
    text("os") + text("system") + b"\x93",  # STACK_GLOBAL
    name("torch._utils._rebuild_parameter") + b"(" + tensor() + b"N" * 20 + b"tR",
    b"K\x01K\x02\x93", name("torch.Size") + name("torch.Size") + b"R", text("torch.Size") + b")R", b"})R",
    name("torch.Size") + b"((K\x01t\x85" + name("torch.Size") + b"tR",
    name("torch._tensor._rebuild_from_type_v2") + b"q\x05" + b"(h\x05N" * 5000 + b")" + b"Nt" * 5000 + b"R",
    b"I1\n", b"L1L\n", b"F1.0\n", b"S'a'\n", b"V1\n", b"g0\n", b"(d", b"(l", b"2", b"00", b"\x97", b"\x98",
    b"\x8b\xff\xff\xff\x7f",  # LONG4 of 2 GB
    b"\x8e" + (1 << 60).to_bytes(8, "little"), b"\x8d" + (1 << 60).to_bytes(8, "little"),
    b"\x96" + (1 << 60).to_bytes(8, "little"), b"X\xff\xff\xff\xff", b"T\xff\xff\xff\x7f",
    b"h\x07", b"j\xff\xff\xff\x7f", b"t", b"u", b"e", b"s", b"a", b"R", b"b", b"\x85", b"\x86", b"\x87", b"Q",
    b"(((" + b"e", b"K\x01(K\x02e", b"K\x01(K\x02K\x03u", b"}(K\x02u", b"K\x01K\x02K\x03s", b"\x80\x09",
]  # fmt: skip


@pytest.mark.parametrize("form", [zipped, legacy])
@pytest.mark.parametrize("evil", EVIL, ids=lambda evil: repr(evil[:30]))
def test_a_hostile_pickle_is_refused_and_nothing_in_it_runs(form, evil, read, tmp_path):
    marker = tmp_path / "marker"
    for words in ("touch {marker}", "open('{marker}', 'w')", "{marker}"):
        evil = evil.replace(text(words), text(words.format(marker=marker)))
    refused(read, form(in_dict(evil)), "")
    assert not marker.exists()


def test_an_error_names_the_class_and_says_what_to_do(read):
    class_of = "torch.nn.modules.rnn.LSTM"
    refused(read, zipped(in_dict(name(class_of) + b")\x81")), f"holds '{class_of}'.*torch.save.model.state_dict")
    refused(read, zipped(in_dict(name("numpy._core.multiarray.scalar"))), "numpy._core.multiarray.scalar")
    refused(read, zipped(in_dict(name("argparse.Namespace") + b")\x81")), "argparse.Namespace")


def test_a_container_in_itself_is_refused(read):
    refused(read, zipped(b"\x80\x02}q\x00" + text("a") + b"h\x00s."), "too deep")
    refused(read, zipped(b"\x80\x02]q\x00h\x00ah\x00a."), "too deep")


def test_containers_that_come_too_often_are_refused(read, monkeypatch):
    monkeypatch.setattr(torch_files, "MAX_OPCODES", 10_000)
    doubled = b"]q\x00" + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(60))
    refused(read, zipped(b"\x80\x02" + doubled + b"."), "too often")
    monkeypatch.setattr(torch_files, "MAX_NAMES", 10_000)
    long = text("k" * 2000) + b"q\x01"
    pairs = b"".join(number(n) + b"}h\x01" + tensor() + b"s" for n in range(9))
    refused(read, zipped(b"\x80\x02}" + long + b"0}(".replace(b"0", b"") + pairs + b"us."), "names are too long")


def test_two_tensors_of_one_name_are_refused(read):
    pickled = b"\x80\x02}(" + text("a") + b"}" + text("b") + tensor() + b"s" + text("a.b") + tensor() + b"u."
    refused(read, zipped(pickled), "two tensors are called 'a.b'")


def test_a_tensor_under_a_key_that_is_no_name_is_refused(read):
    words = "a key that is neither a string nor an integer"
    refused(read, zipped(b"\x80\x02}N" + tensor() + b"s."), words)
    refused(read, zipped(b"\x80\x02}N}" + text("a") + tensor() + b"ss."), words)
    refused(read, zipped(b"\x80\x02}" + number(1 << 80) + tensor() + b"s."), words)
    assert read(zipped(pickle.dumps({None: [1], (1, 2): {0.5: [3]}}, 2))) == {}


def test_a_pickle_has_an_end(read, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_OPCODES", 1000)
    refused(read, zipped(b"\x80\x02" + b"(" * 2000 + b"."), "more than 1,000 opcodes")


@pytest.mark.parametrize(
    "content",
    [
        zipped(b"\x80\x02" + b"}q\x00" + b"r\xff\xff\xff\x7f" * 3 + b"."),  # LONG_BINPUT 2**31 - 1
        zipped(b"\x80\x02" + b"(" * 100_000 + b"."),
        zipped(b"\x80\x02" + b")" + b"\x85" * 100_000 + b"."),
        zipped(b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s."),  # a key whose hash would overflow the stack
        zipped(b"\x80\x02X\xff\xff\xff\xff" + b"a" * 100),
        zipped(in_dict(tensor((1 << 40,), (0,)))),
        zipped(in_dict(tensor(at=storage(size=1 << 40)))),
        zipped(in_dict(tensor()), [("data/0", bytes(200 << 20))], compression=zipfile.ZIP_DEFLATED),
        zipped(b"\x80\x02}" + b"0" * (100 << 20), compression=zipfile.ZIP_DEFLATED),
        legacy(in_dict(tensor()))[:-24] + struct.pack("<q", 1 << 60),
        legacy(b"\x80\x02](" + b"".join(
            tensor((2,), (1,), at=storage(size=100_000 + n, kind="torch.BFloat16Storage")) for n in range(400)
        ) + b"e.", contents=[np.zeros(100_400, np.uint16)]),
    ],
    ids=range(11),
)  # fmt: skip
def test_memory_is_bounded(content, read):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="can not be read"):
            read(content)
        peak = tracemalloc.get_traced_memory()[1]
    except pytest.fail.Exception:  # it holds nothing, which is no error
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < torch_files.EXPANSION_FLOOR + (20 << 20) + 4 * len(content)


def test_archives_that_are_no_files_of_pytorch(read):
    good = in_dict(tensor())
    twice = zipped(good, [("data/0", VALUES.tobytes()), ("data/0", VALUES.tobytes())])
    refused(read, twice, "same name")
    refused(read, zipped(good, [("data/1", b"")]), "no entry 'data/0'")
    refused(read, zipped(good, [("data/0", VALUES.tobytes()), ("constants.pkl", b"")]), "torch.jit.load")
    refused(read, zipped(good, folder="../../x/"), "expected one that torch.save wrote")
    refused(read, zipped(good, [("data/0", VALUES.tobytes()), ("byteorder", b"middle")]), "byteorder")
    refused(read, zipped(good, [("data/0", VALUES.tobytes()), ("data.pkl", good), ("b/data.pkl", good)]), "")
    refused(read, zipped(good, compression=zipfile.ZIP_BZIP2), "compressed")
    refused(read, zipped(good, compression=zipfile.ZIP_LZMA), "compressed")
    stream = io.BytesIO()
    np.savez(stream, a=VALUES)
    refused(read, stream.getvalue(), "0 of data.pkl")
    damaged = zipped(good).replace(VALUES.tobytes(), VALUES[::-1].tobytes())
    refused(read, damaged, "CRC")


def test_files_of_other_kinds_are_refused(read, tmp_path):
    refused(read, b"", "is empty")
    refused(read, b"\x89HDF\r\n\x1a\n" + bytes(100), "begins as no such file")
    refused(read, pickle.dumps({"a": 1}), "torch.save did not write")
    refused(read, pickle.dumps(os.getcwd), "torch.save did not write")
    refused(read, bytes(257) + b"ustar" + bytes(300), "tar file")
    refused(read, b"\x10\0\0\0\0\0\0\0{" + b" " * 40, "safetensors")
    with pytest.raises(IsADirectoryError):
        read_state_dict(tmp_path)
    with pytest.raises(FileNotFoundError):
        cylstm.load_torch(tmp_path / "nothing.pt")
    with pytest.raises(TypeError, match="path is 3, expected a string or a path"):
        read_state_dict(3)


def test_safetensors_of_a_dtype_that_numpy_has_not_are_refused(read):
    header = b'{"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'
    refused(read, struct.pack("<Q", len(header)) + header + bytes(4), "'w' is of dtype F8_E4M3")


def test_bfloat16_of_safetensors(read):
    header = b'{"w":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    found = read(struct.pack("<Q", len(header)) + header + b"\x80\x3f\x20\xbe")["w"]
    assert found.tolist() == [[1.0, -0.15625]] and found.dtype == np.float32


def test_old_files_that_end_too_early(read):
    whole = legacy(in_dict(tensor()))
    refused(read, whole[:-1], "ends before its storage '0'")
    refused(read, whole[:-32] + struct.pack("<q", -1) + VALUES.tobytes(), "ends before|damaged size")
    refused(read, legacy(in_dict(tensor()), keys=()), "no storage '0'")
    refused(read, legacy(in_dict(tensor()), keys=("1",)), "'1' that no tensor uses")
    refused(read, MAGIC.replace(b"M\xe9\x03", b"M\xea\x03") + in_dict(tensor()), "torch.save did not write")


def damaged_files(count):
    """Golden files that are cut off, or have some bytes changed."""
    rng = random.Random(0)
    files = sorted({arrays["file"].tobytes() for _, arrays in CASES.values()})
    for n in range(count):
        content = bytearray(rng.choice(files))
        if n % 3 == 0:
            del content[rng.randrange(len(content)) :]
        else:
            for _ in range(rng.choice((1, 2, 9))):
                content[rng.randrange(len(content))] = rng.randrange(256)
        yield bytes(content)
    for n in range(64):
        yield random.Random(n).randbytes(n * 7)


def test_a_damaged_file_is_an_error_that_names_it_or_is_read(tmp_path):
    path = tmp_path / "damaged.pt"
    read_whole = 0
    for content in damaged_files(500):
        path.write_bytes(content)
        try:
            describe(path)
            read_whole += 1
        except ValueError as error:
            assert str(error).startswith(f"{path} can not be read: ")
    assert read_whole < 200


# State dicts


def arrays_of(layer):
    return dict(layer.parameters)


LAYERS = [
    cls(3, 4, layers, bias=bias, bidirectional=two, rng=0, **options)
    for (cls, options), layers, bias, two in itertools.product(
        ((cylstm.LSTM, {}), (cylstm.LSTM, {"proj_size": 2}), (cylstm.GRU, {}), (cylstm.RNN, {})),
        (1, 2, 3), (True, False), (False, True),
    )
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_is_told_by_the_names_and_shapes_of_its_tensors(layer):
    (found,) = find_layers({f"a.b.{key}": value for key, value in layer.parameters.items()})
    assert found.prefix == "a.b" and found.kind == type(layer).__name__ and not found.problem
    assert {name: getattr(layer, name) for name in found.options} == found.options
    ask = {"nonlinearity": "tanh"} if found.kind == "RNN" else {}
    again = cylstm.from_torch(cylstm.to_torch_state_dict(layer), batch_first=True, **ask)
    assert again.batch_first and {name: getattr(again, name) for name in found.options} == found.options
    assert all((again.parameters[key] == value).all() for key, value in layer.parameters.items())
    assert again.parameters.keys() == layer.parameters.keys()


def test_a_tensor_that_is_missing_too_much_or_of_another_shape_is_named():
    lstm = arrays_of(cylstm.LSTM(3, 4, 2, bidirectional=True, rng=0))
    for key in lstm:
        less = {other: value for other, value in lstm.items() if other != key}
        with pytest.raises(ValueError, match=f"missing: {key}"):
            cylstm.from_torch(less, batch_first=True)
        wrong = {**lstm, key: lstm[key][:-1]}
        with pytest.raises(ValueError, match=rf"{key} (is of shape|has shape )?"):
            cylstm.from_torch(wrong, batch_first=True)
    with pytest.raises(ValueError, match="unexpected: weight_hh_l0_raw"):
        cylstm.from_torch({**lstm, "weight_hh_l0_raw": lstm["weight_hh_l0"]}, batch_first=True)
    with pytest.raises(ValueError, match="too few tensors for 1000000000 layers"):
        cylstm.from_torch({**lstm, "weight_ih_l999999999": lstm["weight_hh_l0"]}, batch_first=True)


def test_what_a_state_dict_does_not_say_is_asked_for_by_name():
    rnn = arrays_of(cylstm.RNN(3, 4, rng=0))
    with pytest.raises(ValueError, match="RNN does not say batch_first and nonlinearity: expected batch_first=, nonl"):
        cylstm.from_torch(rnn)
    with pytest.raises(ValueError, match="does not say nonlinearity: expected nonlinearity="):
        cylstm.from_torch(rnn, batch_first=True)
    with pytest.raises(ValueError, match="nonlinearity is 'gelu', expected 'tanh' or 'relu'"):
        cylstm.from_torch(rnn, batch_first=True, nonlinearity="gelu")
    with pytest.raises(ValueError, match="GRU has no nonlinearity"):
        cylstm.from_torch(arrays_of(cylstm.GRU(3, 4, rng=0)), batch_first=True, nonlinearity="tanh")
    layer = cylstm.from_torch(rnn, batch_first=False, nonlinearity="relu", dtype="float64")
    assert repr(layer) == "RNN(3, 4, dtype='float64', nonlinearity='relu')"
    two = cylstm.from_torch(arrays_of(cylstm.GRU(3, 4, 2, rng=0)), batch_first=True, dropout=0.5)
    assert two.dropout == 0.5


MODEL = {
    "encoder": arrays_of(cylstm.LSTM(3, 4, rng=0)),
    "decoder": {"cell": {key.removesuffix("_l0"): value for key, value in cylstm.GRU(3, 4).parameters.items()}},
    "out.weight": np.ones((2, 4)), "out.bias": np.ones(2), "table.weight": np.ones((9, 3), np.float32),
    "norm.weight": np.ones(3), "norm.bias": np.zeros(3), "conv.weight": np.ones((2, 3, 4)), "epoch": 7,
}  # fmt: skip


def test_layers_of_a_model_are_listed_and_taken_by_prefix_or_kind():
    assert [(found.prefix, found.kind) for found in find_layers(MODEL)] == [
        ("encoder", "LSTM"), ("decoder.cell", "GRUCell"), ("out", "Linear"), ("table", "Linear or Embedding"),
        ("norm", "LayerNorm or GroupNorm"), ("conv", "tensors"),
    ]  # fmt: skip
    assert repr(cylstm.from_torch(MODEL, "encoder.", batch_first=False)) == "LSTM(3, 4)"
    assert repr(cylstm.from_torch(MODEL, kind="LSTM", batch_first=False)) == "LSTM(3, 4)"
    assert repr(cylstm.from_torch(MODEL, "decoder")) == "GRU(3, 4)"
    assert repr(cylstm.from_torch(MODEL, "out")) == "Dense(4, 2, dtype='float64')"
    assert repr(cylstm.from_torch(MODEL, "table", kind="Embedding")) == "Embedding(9, 3)"
    assert repr(cylstm.from_torch(MODEL, "table", kind="Linear")) == "Dense(3, 9, bias=False)"
    assert repr(cylstm.from_torch(MODEL, kind="LayerNorm", dtype="float32")) == "LayerNorm(3)"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, r"several layers may be meant: .*encoder: LSTM\(input_size=3, .*; decoder.cell: GRUCell.*; norm: "),
        ({"prefix": "nothing"}, "there is no layer at prefix 'nothing' among the tensors; there are encoder: LSTM"),
        ({"prefix": "conv"}, "no layer at prefix 'conv'"),
        ({"prefix": "enc"}, "no layer at prefix 'enc'"),
        ({"prefix": "encoder", "kind": "GRU"}, "no GRU at prefix 'encoder'"),
        ({"prefix": "table"}, "does not say what it is: expected kind='Linear' or kind='Embedding'"),
        ({"prefix": "norm"}, "does not say what it is: expected kind='LayerNorm'"),
        ({"kind": "Conv1d"}, "kind is 'Conv1d', expected one of LSTM, GRU, RNN, LSTMCell, "),
        ({"prefix": "out", "batch_first": True}, "'out', Linear, has no batch_first"),
        ({"prefix": "decoder.cell", "dropout": 0.1}, "'decoder.cell', GRUCell, has no dropout"),
    ],
)
def test_what_may_be_meant_is_not_guessed(arguments, words):
    with pytest.raises(ValueError, match=words):
        cylstm.from_torch(MODEL, **arguments)


def test_a_tensor_alone_is_told_by_its_shape():
    (found,) = find_layers({"": np.ones((3, 4), np.float32)})
    assert found.detail == "(3, 4), float32"


def test_what_holds_no_layer():
    with pytest.raises(ValueError, match="there is no layer among the tensors; there is none at all"):
        cylstm.from_torch({"epoch": 3})
    with pytest.raises(TypeError, match=r"is a PosixPath, expected .*: a file is read by cylstm\.load"):
        cylstm.from_torch(Path("model.pt"))
    with pytest.raises(ValueError, match="weight is of dtype int8, expected floats"):
        cylstm.from_torch({"weight": np.ones((2, 3), np.int8), "bias": np.ones(2, np.int8)})


def test_float16_becomes_float32_and_float64_stays():
    gru = arrays_of(cylstm.GRU(3, 4, dtype="float64", rng=0))
    halves = {key: value.astype(np.float16) for key, value in gru.items()}
    layer = cylstm.from_torch(halves, batch_first=False)
    assert layer.dtype == np.float32
    assert all((layer.parameters[key] == value).all() for key, value in halves.items())
    assert cylstm.from_torch(gru, batch_first=False).dtype == np.float64


# Out


def test_a_single_bias_has_a_second_one_of_zeros():
    for layer in (cylstm.LSTM(3, 4, bias="single", bidirectional=True, rng=0), cylstm.RNN(3, 4, bias="single", rng=0)):
        state_dict = cylstm.to_torch_state_dict(layer)
        assert {key for key in state_dict if "bias_hh" in key} == {
            key.replace("_ih_", "_hh_") for key in layer.parameters if "bias_ih" in key
        }
        ask = {"nonlinearity": "tanh"} if isinstance(layer, cylstm.RNN) else {}
        again = cylstm.from_torch(state_dict, batch_first=False, **ask)
        x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
        assert (again.forward(x)[0] == layer.forward(x)[0]).all()


def test_a_sequential_has_the_names_of_pytorchs():
    model = cylstm.Sequential(
        [cylstm.Embedding(9, 3, rng=0), cylstm.GRU(3, 4, rng=0), cylstm.Dropout(0.5), ("norm", cylstm.LayerNorm(4)),
         ("inner", cylstm.Sequential([cylstm.Dense(4, 2, rng=0), cylstm.Activation("tanh")]))]
    )  # fmt: skip
    state_dict = cylstm.to_torch_state_dict(model)
    assert list(state_dict) == [
        "0.weight", "1.weight_ih_l0", "1.weight_hh_l0", "1.bias_ih_l0", "1.bias_hh_l0", "norm.weight", "norm.bias",
        "inner.0.weight", "inner.0.bias",
    ]  # fmt: skip
    assert all((state_dict[key] == value).all() for key, value in model.parameters.items())
    state_dict["norm.bias"][:] = 7
    assert not model.parameters["norm.bias"].any()


@pytest.mark.parametrize(
    "layer, words",
    [
        (cylstm.LSTM(3, 4, peepholes=True, rng=0), "has peepholes=True, which PyTorch's LSTM can not have"),
        (cylstm.LSTM(3, 4, reverse=True, rng=0), "reverse=True"),
        (cylstm.LSTM(3, 4, bidirectional=True, merge="sum", rng=0), "merge='sum'"),
        (cylstm.LSTM(3, 4, semantics="onnx", rng=0), "empty='zero'"),
        (cylstm.LSTM(3, 4, activations=("hard_sigmoid", "tanh", "tanh"), rng=0), "activations="),
        (cylstm.LSTM(3, 4, zoneout_h=0.1, rng=0), "zoneout_h=0.1"),
        (cylstm.LSTM(3, 4, proj_size=4, rng=0), "proj_size=4, which in PyTorch is smaller than hidden_size"),
        (cylstm.GRU(3, 4, reset_after=False, rng=0), "reset_after=False"),
        (cylstm.GRU(3, 4, clip={"gates": 1.0}, rng=0), "clip="),
        (cylstm.RNN(3, 4, nonlinearity="sigmoid", rng=0), "nonlinearity='sigmoid'"),
        (cylstm.Dense(3, 4, activation="relu", rng=0), "activation='relu'"),
        (cylstm.Embedding(3, 4, mask_zero=True, rng=0), "mask_zero=True"),
        (cylstm.JordanRNN(3, 4, 2, rng=0), "has no module in PyTorch that is like it"),
        (cylstm.Sequential([cylstm.Dense(3, 4, activation="relu", rng=0)]), "activation='relu'"),
    ],
    ids=repr,
)
def test_an_option_that_pytorch_has_not_is_named(layer, words):
    with pytest.raises(ValueError, match=words):
        cylstm.to_torch_state_dict(layer)


def test_what_is_no_layer_has_no_state_dict():
    with pytest.raises(TypeError, match="layer is a dict, expected a layer such as"):
        cylstm.to_torch_state_dict({"weight": np.ones((2, 3))})


def test_a_default_state_is_none_of_pytorchs():
    layer = cylstm.GRU(3, 4, rng=0)
    layer.default_state = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match="default_state"):
        cylstm.to_torch_state_dict(layer)
