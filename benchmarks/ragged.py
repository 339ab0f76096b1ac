"""What lengths cost: a batch with lengths of 10 to 1000 beside the same batch padded to 1000, one thread.

    python benchmarks/ragged.py

Prints the ratio of the two times over the valid share of the padded batch: 1 is a cost proportional to the valid
steps. The two are timed in turn, so that a change of the machine's speed meets both; median and quartiles of 15 rounds.
"""

import time

import numpy as np

import cylstm

SEQ_LEN, SHORTEST, ROUNDS = 1000, 10, 15


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    cylstm.set_num_threads(1)
    rng = np.random.default_rng(0)
    print("layer  batch  (I, H)       valid share  cost over share (quartiles)")
    for layer_class in (cylstm.LSTM, cylstm.GRU):
        for batch in (64, 128):
            for input_size, hidden_size in ((16, 32), (64, 128), (128, 256)):
                layer = layer_class(input_size, hidden_size, rng=0)
                x = rng.standard_normal((SEQ_LEN, batch, input_size), dtype=np.float32)
                lengths = rng.integers(SHORTEST, SEQ_LEN + 1, batch)
                share = lengths.sum() / (SEQ_LEN * batch)
                ratios = []
                for _ in range(ROUNDS):
                    padded = seconds(lambda layer=layer, x=x: layer.forward(x))
                    ragged = seconds(lambda layer=layer, x=x, lengths=lengths: layer.forward(x, lengths=lengths))
                    ratios.append(ragged / padded / share)
                low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
                case = f"{layer_class.__name__:5}  {batch:5}  {f'({input_size}, {hidden_size})':11}"
                print(f"{case}  {share:11.3f}  {middle:.3f} ({low:.3f}-{high:.3f})")


if __name__ == "__main__":
    main()
