"""The command line: arguments in, exit codes out. The work is in the module that a command imports.

Exit codes: 0 done, 1 the command failed or what it compared differs, 2 wrong arguments, 130 interrupted.
"""

import argparse
import os
import sys

EXAMPLES = {
    "": ["demo --epochs 10 --out digits.safetensors", "info model.pt",
         "convert model.pt model.safetensors --prefix encoder.lstm --batch-first",
         "verify model.safetensors model.onnx"],
    "demo": ["demo --epochs 10 --out digits.safetensors"],
    "info": ["info model.pt", "info model.keras weights.h5 model.onnx"],
    "convert": ["convert model.pt lstm.safetensors --prefix encoder.lstm --batch-first",
                "convert model.keras model.onnx",
                "convert weights.h5 gru.safetensors --layer gru_1 --reset-after",
                "convert detector.onnx lstm.npz --node /decoder/LSTM"],
    "verify": ["verify model.safetensors model.onnx",
               "verify model.keras expected.npz                  (the arrays x and y, or one for each layer)",
               "verify model.pt --batch-first model.onnx --shape 4,50,40 --seed 1"],
    "bench": ["bench --peers numpy,torch --json now.json",
              "bench --cases step-40-80,gru-seq-1x200-40-80 --python tract=/opt/tract/bin/python",
              "bench --compare before.json now.json",
              "bench --compare now.json --contenders ours,torch:cell"],
}  # fmt: skip

# What a loader may have to be told: (flag, option, how argparse reads it, help).
_SAID = (
    ("--prefix", "prefix", {"metavar": "NAME"}, "PyTorch: where in the state dict the layer is"),
    ("--kind", "kind", {"metavar": "NAME"}, "PyTorch: which of its layers, where several are there"),
    ("--batch-first", "batch_first", {"action": argparse.BooleanOptionalAction},
     "PyTorch: the layer's batch_first, which a state dict does not say"),
    ("--nonlinearity", "nonlinearity", {"choices": ("tanh", "relu")}, "PyTorch: that of an RNN, likewise"),
    ("--dropout", "dropout", {"type": float, "metavar": "P"}, "PyTorch: that between layers, likewise"),
    ("--layer", "layer", {"metavar": "NAME"}, "Keras: one layer of the model"),
    ("--class-name", "class_name", {"metavar": "NAME"}, "Keras, weights alone: what the layer is, such as LSTM"),
    ("--reset-after", "reset_after", {"action": argparse.BooleanOptionalAction}, "Keras, weights alone: of a GRU"),
    ("--activation", "activation", {"metavar": "NAME"}, "Keras, weights alone (default: Keras')"),
    ("--recurrent-activation", "recurrent_activation", {"metavar": "NAME"}, "likewise"),
    ("--return-sequences", "return_sequences", {"action": argparse.BooleanOptionalAction}, "likewise (default: yes)"),
    ("--go-backwards", "go_backwards", {"action": argparse.BooleanOptionalAction}, "likewise (default: no)"),
    ("--merge-mode", "merge_mode", {"choices": ("concat", "sum", "mul", "ave")}, "likewise, of a Bidirectional"),
    ("--keras-version", "keras_version", {"choices": ("2", "3")}, "Keras, weights alone"),
    ("--node", "node", {"metavar": "NAME"}, "ONNX: one recurrent node of the graph"),
    ("--dtype", "dtype", {"choices": ("float32", "float64")}, "as in the file if omitted"),
)  # fmt: skip


# What is said in a line, without a traceback.
_EXPECTED = (OSError, ValueError, TypeError, ImportError, MemoryError)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Print the whole help, not only the usage line."""
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: error: {message}\n")


class UsageError(Exception):
    """Arguments that do not go together, as far as argparse can not tell."""


def _at_least(least):
    def parse(text):
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} came, expected an integer of at least {least}")
        return number

    parse.__name__ = "integer"  # argparse: invalid integer value
    return parse


def _integers(text):
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{text} came, expected integers of at least 0")
    return numbers


_integers.__name__ = "list of integers"


def _demo(arguments):
    from cylstm import demo

    given = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    demo.digits(arguments.out, seed=arguments.seed, **given)
    return 0


def _info(arguments):
    failed = False
    for n, path in enumerate(arguments.files):
        print("\n" * (n > 0), end="")
        try:
            _list(path)
        except _EXPECTED as error:  # the other files are listed all the same
            print(f"error: {error}", file=sys.stderr)
            failed = True
    return int(failed)


def _list(path):
    from cylstm.interop import files

    kind, entries = files.kind_of(path), files.describe(path)
    print(f"{path}: {files.KINDS[kind]}")
    rows = [(entry.name or "-", entry.kind, entry.detail) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        print("  " + "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip())
    if not rows:
        print("  no layer that cylstm knows")


def _loaded(arguments, path):
    """The model of a file, by what was said of it."""
    from cylstm.interop import files

    kind = files.kind_of(path)
    known = {option: flag for flag, option, _, _ in _SAID if option in files.OPTIONS[kind]}
    said = {option: getattr(arguments, option) for _, option, _, _ in _SAID}
    said = {option: value for option, value in said.items() if value is not None}
    strange = [flag for flag, option, _, _ in _SAID if option in said and option not in known]
    if strange:
        words = ", ".join(known.values()) or "none"
        raise UsageError(f"{', '.join(strange)} came with {path}, {files.KINDS[kind]}: expected options among {words}")
    try:
        return files.load(path, **said)
    except ValueError as error:  # which asks for an argument by its name in Python
        asked = [flag for option, flag in known.items() if option != "dtype" and f" {option}=" in str(error)]
        raise ValueError(f"{error} (here: {', '.join(asked)})" if asked else str(error)) from None


def _convert(arguments):
    from cylstm.interop import files

    if os.path.exists(arguments.destination) and os.path.samefile(arguments.source, arguments.destination):
        raise UsageError(f"SRC and DST are one file, {arguments.source}: expected another DST")
    model = _loaded(arguments, arguments.source)
    files.save(model, arguments.destination)
    print(f"{arguments.destination}: {model!r}")
    return 0


def _verify(arguments):
    import numpy as np

    import cylstm
    from cylstm.interop import files

    model = _loaded(arguments, arguments.model)
    kind = files.kind_of(arguments.reference)
    lengths = arguments.lengths
    if kind == "npz":
        reference = files.read_npz(arguments.reference)
        x, lengths = reference.get("x"), reference.get("lengths", lengths)
        if x is None and arguments.x is None:
            raise UsageError(f"{arguments.reference} has no array x: expected --x FILE")
    elif kind == "onnx":
        reference, x = _session(arguments.reference), None
    else:
        raise UsageError(f"{arguments.reference} is {files.KINDS[kind]}, expected a model of ONNX or an .npz")
    if arguments.x is not None:
        x = _array(arguments.x)
    hint = ""
    if x is None:
        x = _random(model, arguments.shape, arguments.seed)
        hint = f" (x is random, of shape {x.shape}: --shape gives it another one)"
    elif arguments.shape is not None:
        raise UsageError("--shape is of a random x, and there is one")
    x = np.asarray(x, model.dtype) if x.dtype.kind == "f" and model.dtype is not None else x
    try:
        report = cylstm.verify(
            model, reference, x, lengths=lengths, tolerance=arguments.tolerance, time_major=arguments.time_major
        )
    except ValueError as error:  # such as sizes that are fixed in the file
        raise ValueError(f"{error}{hint}") from None
    print(report)
    return 0 if report.ok else 1


def _session(path):
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"{path} is run by onnxruntime: pip install onnxruntime") from None
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # each version has classes of its own
        raise ValueError(f"{path} is no model that onnxruntime runs: {error}") from None


def _array(path):
    """An x: the array of an .npy, or x of an .npz."""
    from cylstm.interop import files

    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        return files.read_npy(path)
    arrays = files.read_npz(path)
    if "x" not in arrays:
        raise ValueError(f"{path} has the arrays {', '.join(arrays)}, expected one called x")
    return arrays["x"]


def _random(model, shape, seed):
    """An x that the model takes, of a shape that was given or of three rows of twelve steps."""
    import numpy as np

    if shape is not None and min(shape) < 1:
        raise UsageError(f"--shape is {','.join(map(str, shape))}, expected sizes of at least 1")
    rng = np.random.default_rng(seed)
    first = next(iter(model._leaves))
    if type(first).__name__ == "Embedding":
        return rng.integers(0, first.num_embeddings, shape or (3, 12))
    if shape is None and model._input_width is None:
        raise UsageError("the model takes any number of features: expected --shape")
    rows = (3, 12) if getattr(model, "batch_first", True) else (12, 3)
    return rng.standard_normal(shape or (*rows, model._input_width)).astype(model.dtype or np.float32)


def _parser():
    name = "python -m cylstm" if os.path.basename(sys.argv[0]) == "__main__.py" else "cylstm"

    def options(command):
        lines = "\n".join(f"  {name} {example}" for example in EXAMPLES[command])
        word = "example" if len(EXAMPLES[command]) == 1 else "examples"
        return {"epilog": f"{word}:\n{lines}", "formatter_class": argparse.RawDescriptionHelpFormatter}

    parser = _Parser(prog=name, description="Small, fast recurrent networks on the CPU.", **options(""))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(command, run, text):
        added = commands.add_parser(command, help=text, description=text, **options(command))
        added.set_defaults(run=run)
        return added

    demo = add("demo", _demo, "train a digit classifier in seconds, test it, stream it, save it")
    demo.add_argument(
        "--out", metavar="FILE", default="cylstm-digits.safetensors",
        help="where the trained model goes (default: %(default)s)",
    )  # fmt: skip
    demo.add_argument("--seed", metavar="N", type=_at_least(0), default=0, help="default: %(default)s")
    demo.add_argument(
        "--epochs", metavar="N", type=_at_least(1),
        help="passes over the training images (default: what reaches 98 %% in seconds)",
    )  # fmt: skip

    info = add("info", _info, "list the layers of files: of cylstm, PyTorch, Keras, ONNX, safetensors, .npz")
    info.add_argument("files", metavar="FILE", nargs="+")

    convert = add("convert", _convert, "read a model of any of these and write it as DST's suffix says")
    convert.add_argument("source", metavar="SRC", help="what it is, its contents say")
    convert.add_argument(
        "destination", metavar="DST", help=".safetensors (cylstm's), .onnx, or .npz (PyTorch's state dict)"
    )
    _add_said(convert)

    verify = add("verify", _verify, "run a model and a reference; say where they first differ, and why")
    verify.add_argument("model", metavar="MODEL", help="a file of any kind that convert reads")
    verify.add_argument("reference", metavar="ONNX_OR_NPZ", help="a model for onnxruntime, or expected arrays by name")
    verify.add_argument("--x", metavar="FILE", help="an .npy, or an .npz with an array x; random numbers if omitted")
    verify.add_argument("--shape", metavar="N,T,F", type=_integers, help="of a random x (default: as the model is)")
    verify.add_argument("--seed", metavar="N", type=_at_least(0), default=0, help="default: %(default)s")
    verify.add_argument("--lengths", metavar="N,N,...", type=_integers, help="valid steps of each row")
    verify.add_argument("--tolerance", metavar="T", type=float, help="default: 2e-5, or 1e-12 in float64")
    verify.add_argument(
        "--time-major", action=argparse.BooleanOptionalAction,
        help="whether the reference has time first (default: found out)",
    )  # fmt: skip
    _add_said(verify)

    from cylstm.bench import command

    text = "time cylstm beside the libraries that are installed, each checked first; about a minute"
    command.add_quick_options(add("bench", command.quick, text))
    return parser


def _add_said(parser):
    group = parser.add_argument_group("what the file may not say")
    for flag, _, reading, text in _SAID:
        group.add_argument(flag, help=text, **reading)


def main(argv=None):
    """Run one command; ``argv`` is ``sys.argv[1:]`` if omitted. Returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return 0
    try:
        return arguments.run(arguments)
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except _EXPECTED as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
