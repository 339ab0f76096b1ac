"""Files of many golden cases: make_keras.py and make_onnx.py write them, tests/test_golden_family.py reads them.

make_losses.py and tests/test_losses.py use them too, with contents of their own. A case is two dicts. `about` says what
it is, in what JSON can hold:

    kind        "lstm", "gru" or "rnn"
    options     what the layer here is made with
    source      who computed the outputs

and `arrays` holds, in the names, shapes, order of gates and layout of this library:

    parameters.{name}
    x                   (T, B, I), time first
    lengths, mask       (B,), and bool (B, T); each where there is one
    h_0, c_0            the initial state, where there is one
    y                   (T, B, D*H). y_forward and y_reverse instead, where the directions are not merged. What a
                        reverse direction puts out stands at its own time.
    h_n, c_n            the final state, (D, B, H)

Cases of one file share the arrays that are the same in them. The file's array "index" is the JSON of
{case: {"about": about, "arrays": {name: name in the file}}}.
"""

import json
import zlib

import numpy as np


def draw(name, *shape):
    """Multiples of 1/64 in [-1.5, 1.5]: exact in float32, and they pack well.

    They depend on the name and the shape alone, so that cases have them in common.
    """
    return np.random.default_rng([zlib.crc32(name.encode()), *shape]).integers(-96, 97, shape) / 64


def save(path, cases):
    """Write {case: (about, arrays)}."""
    index, members = {}, {}
    for case, (about, arrays) in cases.items():
        index[case] = {"about": about, "arrays": {}}
        for name, array in arrays.items():
            same = (
                member
                for member, other in members.items()
                if member.partition("|")[0] == name and other.dtype == array.dtype and np.array_equal(other, array)
            )
            member = next(same, f"{name}|{case}")
            members[member] = array
            index[case]["arrays"][name] = member
    np.savez_compressed(path, index=np.frombuffer(json.dumps(index).encode(), dtype=np.uint8), **members)


def load(path):
    """What was saved."""
    with np.load(path) as file:
        index = json.loads(file["index"].tobytes())
        members = {name: file[name] for name in file.files}
    return {
        case: (entry["about"], {name: members[member] for name, member in entry["arrays"].items()})
        for case, entry in index.items()
    }
