"""How many parameters a layer has: the formula of the textbooks beside what ``summary()`` says.

Each of the four gates of an LSTM has for each hidden unit a weight for every input and every hidden unit, and a bias:
4 * ((inputs + units) * units + units). That counts one bias, as Keras has it: ``bias="single"``. PyTorch has two, which
are added up: ``bias=True``, the default here, has 4 * units more. ``summary()`` counts what is there.

    python examples/parameter_counts.py
"""

from cylstm import LSTM, Dense, Last, Sequential


def check(what, holds):
    print(f"{what}: {'yes' if holds else 'NO'}")
    if not holds:
        raise SystemExit(f"not so: {what}")


def main():
    for inputs, units, expected in ((126, 64, 48_896), (128, 64, 49_408), (4096, 256, 4_457_472), (3, 4, 128)):
        one, two, none = (Sequential([LSTM(inputs, units, bias=bias)]).summary() for bias in ("single", True, False))
        print(f"\nLSTM({inputs}, {units}), a bias per gate:\n{one}")
        check(f"4 * (({inputs} + {units}) * {units} + {units}) = {expected:,}",
              4 * ((inputs + units) * units + units) == expected == one.total)  # fmt: skip
        check(f"two biases: {4 * units:,} more, {two.total:,}", two.total == expected + 4 * units)
        check(f"none: as many less, {none.total:,}", none.total == expected - 4 * units)

    model = Sequential([LSTM(3, 4, bias="single"), Last(), Dense(4, 2)])
    print(f"\nwith a head for two classes:\n{model.summary()}")
    check("128 and 4 * 2 + 2 = 10 are 138 in all", [row.parameters for row in model.summary().rows] == [128, 0, 10]
          and model.summary().total == 138)  # fmt: skip

    model[0].trainable = False
    print(f"\nthe LSTM frozen, so that training leaves it alone:\n{model.summary()}")
    check("10 of 138 are trainable", (model.summary().trainable, model.summary().frozen) == (10, 128))
    print("the counts are those of the textbooks")


if __name__ == "__main__":
    main()
