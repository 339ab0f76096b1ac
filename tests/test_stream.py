"""Streams: a layer step by step, with the bits of the whole sequence, a state, and one thread at a time."""

import contextlib
import copy
import pickle
import threading
import time

import numpy as np
import pytest

from cylstm import GRU, LSTM, Stream, layers

T, N, I, H, L = 9, 3, 4, 6, 2  # noqa: E741


def normal(*shape, dtype=np.float32, seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def make(dtype="float32", **options):
    return LSTM(I, H, L, dtype=dtype, rng=0, **options)


def assert_same_bits(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def assert_same_state(one, other):
    for a, b in zip(one, other, strict=True):
        assert_same_bits(a, b)


def shape_of(batch_size, *axes):
    return axes if batch_size is None else (*axes[:-1], batch_size, axes[-1])


batch_sizes = pytest.mark.parametrize("batch_size", [None, 1, N])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


# Steps and chunks ---------------------------------------------------------------------------------


@dtypes
@batch_sizes
def test_steps_give_the_bits_of_forward_over_the_whole_sequence(batch_size, dtype):
    layer, x = make(dtype), normal(*shape_of(batch_size, T, I), dtype=dtype)
    stream = layer.stream(batch_size)
    y, state = layer.forward(x)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), y)
    assert_same_state(stream.state, state)


@dtypes
@batch_sizes
@pytest.mark.parametrize("cuts", [[], [1], [4], [1, 2, 8], [0, 3, 3, 9]])
def test_chunks_give_the_bits_of_forward_however_the_sequence_is_cut(batch_size, dtype, cuts):
    layer, x = make(dtype), normal(*shape_of(batch_size, T, I), dtype=dtype)
    stream = layer.stream(batch_size)
    y, state = layer.forward(x)
    assert_same_bits(np.concatenate([stream.run(chunk) for chunk in np.split(x, cuts)]), y)
    assert_same_state(stream.state, state)


@batch_sizes
def test_steps_and_chunks_may_alternate(batch_size):
    layer, x = make(), normal(*shape_of(batch_size, T, I))
    stream = layer.stream(batch_size)
    parts = [stream.step(x[0])[None], stream.run(x[1:4]), stream.step(x[4])[None], stream.run(x[5:])]
    assert_same_bits(np.concatenate(parts), layer.forward(x)[0])


def test_a_chunk_is_time_major_whatever_batch_first_says():
    x = normal(T, N, I)
    assert_same_bits(make(batch_first=True).stream(N).run(x), make().stream(N).run(x))


@batch_sizes
@pytest.mark.parametrize("empty", ["initial", "zero"])
def test_an_empty_chunk_gives_an_empty_output_and_keeps_the_state(batch_size, empty):
    stream = make(empty=empty).stream(batch_size)
    stream.step(normal(*shape_of(batch_size, I)))
    before = stream.state
    assert stream.run(normal(*shape_of(batch_size, 0, I))).shape == shape_of(batch_size, 0, H)
    assert_same_state(stream.state, before)


@batch_sizes
def test_outputs_are_fresh_arrays_that_the_next_call_does_not_touch(batch_size):
    stream = make().stream(batch_size)
    outputs = [stream.step(normal(*shape_of(batch_size, I))), stream.run(normal(*shape_of(batch_size, 2, I)))]
    before = [array.copy() for array in outputs]
    stream.step(normal(*shape_of(batch_size, I), seed=6))
    stream.run(normal(*shape_of(batch_size, 2, I), seed=6))
    for array, expected in zip(outputs, before, strict=True):
        assert_same_bits(array, expected)


@batch_sizes
def test_a_stream_does_not_write_to_x(batch_size):
    stream, x = make().stream(batch_size), normal(*shape_of(batch_size, T, I))
    before = x.copy()
    stream.run(x)
    stream.step(x[0])
    assert_same_bits(x, before)


# x and out ----------------------------------------------------------------------------------------


@dtypes
@batch_sizes
def test_out_is_filled_and_returned(batch_size, dtype):
    layer, x = make(dtype), normal(*shape_of(batch_size, T, I), dtype=dtype)
    plain, stream = layer.stream(batch_size), layer.stream(batch_size)
    out = np.full(shape_of(batch_size, H), np.nan, dtype)
    for x_t in x:
        assert stream.step(x_t, out) is out
        assert_same_bits(out, plain.step(x_t))
        assert stream.step(x_t, out=out) is out
        assert_same_bits(out, plain.step(x_t))


def test_out_may_be_a_row_of_a_larger_array_and_nothing_beside_it_is_written():
    stream, x, ys = make().stream(), normal(T, I), np.full((T + 2, H), np.nan, np.float32)
    for x_t, out in zip(x, ys[1:-1], strict=True):
        stream.step(x_t, out)
    assert_same_bits(ys[1:-1], make().forward(x)[0])
    assert np.isnan(ys[[0, -1]]).all()


def test_out_may_lie_right_beside_x():
    memory = np.zeros(H + I + H, np.float32)
    before, x, after = np.split(memory, [H, H + I])
    x[:] = normal(I)
    stream, plain = make().stream(), make().stream()
    assert_same_bits(stream.step(x, before), plain.step(x))
    assert_same_bits(stream.step(x, after), plain.step(x))


LAYOUTS = {
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "Fortran order": np.asfortranarray,
    "wide rows": lambda x: np.concatenate([x, x], axis=-1)[..., : x.shape[-1]],
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "a subclass": lambda x: x.view(np.recarray),
}


@batch_sizes
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_x_may_be_of_any_layout_and_read_only(batch_size, layout):
    stream, plain, x = (
        make().stream(batch_size),
        make().stream(batch_size),
        normal(*shape_of(batch_size, T, I)),
    )
    step, chunk = layout(x[0]), layout(x)
    step.flags.writeable = chunk.flags.writeable = False
    assert_same_bits(stream.step(step), plain.step(x[0]))
    assert_same_bits(stream.run(chunk), plain.run(x))


# State --------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize(("batch_size", "shape"), [(None, (L, H)), (1, (L, 1, H)), (N, (L, N, H))])
def test_a_stream_begins_with_a_state_of_zeros(batch_size, shape, dtype):
    for array in make(dtype).stream(batch_size).state:
        assert_same_bits(array, np.zeros(shape, dtype))


@batch_sizes
def test_the_state_is_a_copy(batch_size):
    stream = make().stream(batch_size)
    stream.step(normal(*shape_of(batch_size, I)))
    before = stream.state
    for array in stream.state:
        array[...] = np.nan
    assert_same_state(stream.state, before)


def test_the_state_can_not_be_assigned_to():
    with pytest.raises(AttributeError):
        make().stream().state = None


@batch_sizes
def test_reset_without_a_state_begins_again(batch_size):
    stream, x = make().stream(batch_size), normal(*shape_of(batch_size, T, I))
    y = stream.run(x)
    stream.reset()
    assert_same_bits(stream.run(x), y)


@batch_sizes
def test_reset_to_a_state_continues_from_it(batch_size):
    layer, x = make(), normal(*shape_of(batch_size, T, I))
    state = (normal(*shape_of(batch_size, L, H)), normal(*shape_of(batch_size, L, H), seed=6))
    stream = layer.stream(batch_size)
    stream.step(x[0])
    stream.reset(state)
    assert_same_state(stream.state, state)
    y, _ = layer.forward(x, state)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), y)


def test_reset_copies_the_state_it_is_given():
    stream = make().stream()
    state = (normal(L, H), normal(L, H, seed=6))
    before = [array.copy() for array in state]
    stream.reset(state)
    stream.step(normal(I))
    assert_same_state(state, before)
    stream.reset(state)
    state[0][...] = np.nan
    assert_same_bits(stream.state[0], before[0])


def test_the_state_of_forward_goes_into_a_stream_and_back():
    layer, x = make(), normal(T, N, I)
    _, state = layer.forward(x[:4])
    stream = layer.stream(N)
    stream.reset(state)
    stream.run(x[4:7])
    y, _ = layer.forward(x[7:], stream.state)
    assert_same_bits(y, layer.forward(x)[0][7:])


# Failed calls -------------------------------------------------------------------------------------

FAILURES = {
    "step, x of a wrong size": lambda s: s.step(normal(I + 1)),
    "step, x of a wrong dtype": lambda s: s.step(normal(I, dtype="f8")),
    "step, no array": lambda s: s.step(None),
    "step, out of a wrong size": lambda s: s.step(normal(I), normal(H + 1)),
    "step, out of a wrong dtype": lambda s: s.step(normal(I), normal(H, dtype="f8")),
    "step, out strided": lambda s: s.step(normal(I), normal(2 * H)[::2]),
    "step, out read-only": lambda s: s.step(normal(I), np.broadcast_to(normal(H), H)),
    "step, out overlaps x": lambda s: s.step(*(lambda memory: (memory[:I], memory[:H]))(normal(H))),
    "run, x of a wrong size": lambda s: s.run(normal(T, I + 1)),
    "run, x of a wrong dtype": lambda s: s.run(normal(T, I, dtype="f8")),
    "run, x of more memory than there is": lambda s: s.run(
        np.broadcast_to(np.zeros(I, np.float32), (10**16, I))
    ),
    "reset, h of a wrong shape": lambda s: s.reset((normal(L, H + 1), normal(L, H))),
    "reset, c of a wrong shape": lambda s: s.reset((normal(L, H), normal(L, H + 1))),
    "reset, c of a wrong dtype": lambda s: s.reset((normal(L, H), normal(L, H, dtype="f8"))),
    "reset, one array": lambda s: s.reset(normal(2, L, H)),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_a_failed_call_changes_neither_the_state_nor_what_follows(fail):
    stream = make().stream()
    stream.step(normal(I))
    before, twin = stream.state, stream.copy()
    with pytest.raises((TypeError, ValueError, MemoryError)):
        fail(stream)
    assert_same_state(stream.state, before)
    assert_same_bits(stream.step(normal(I)), twin.step(normal(I)))
    assert_same_bits(stream.run(normal(T, I)), twin.run(normal(T, I)))


def test_a_refused_out_is_not_written_to():
    stream = make().stream()
    memory = np.zeros(2 * H, np.float32)
    with pytest.raises(ValueError):
        stream.step(memory[:I], memory[I - 1 : I - 1 + H])
    with pytest.raises(ValueError):
        stream.step(normal(I), memory[::2])
    assert (memory == 0).all()


# Copies -------------------------------------------------------------------------------------------

duplicates = {
    "copy()": lambda s: s.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda s: pickle.loads(pickle.dumps(s)),
}
all_duplicates = pytest.mark.parametrize("duplicate", duplicates.values(), ids=duplicates)


@all_duplicates
@batch_sizes
def test_a_copy_continues_from_the_same_state_and_then_goes_its_own_way(duplicate, batch_size):
    stream, x = make().stream(batch_size), normal(*shape_of(batch_size, T, I))
    stream.run(x[:4])
    twin, state = duplicate(stream), stream.state
    assert (repr(twin), twin.batch_size) == (repr(stream), batch_size)
    assert_same_state(twin.state, state)
    y = np.stack([twin.step(x_t) for x_t in x[4:]])
    assert_same_state(stream.state, state)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x[4:]]), y)


@pytest.mark.parametrize("name", ["copy()", "copy.copy"])
def test_a_shallow_copy_shares_the_layer(name):
    stream = make().stream()
    assert duplicates[name](stream).layer is stream.layer


@pytest.mark.parametrize("name", ["copy.deepcopy", "pickle"])
def test_a_deep_copy_has_a_layer_of_its_own_that_keeps_the_old_weights(name):
    stream, x = make().stream(), normal(I)
    twin = duplicates[name](stream)
    expected = make().stream().step(x)
    assert twin.layer is not stream.layer
    stream.layer.load_state_dict(LSTM(I, H, L, rng=1).state_dict())
    assert_same_bits(twin.step(x), expected)
    assert (stream.step(x) != expected).any()


def test_streams_and_their_layer_copied_together_still_belong_together():
    layer = make()
    for twin_layer, one, other in (
        copy.deepcopy([layer, layer.stream(), layer.stream(2)]),
        pickle.loads(pickle.dumps([layer, layer.stream(), layer.stream(2)])),
    ):
        assert one.layer is twin_layer
        assert other.layer is twin_layer


def test_a_pickle_of_another_version_is_refused(monkeypatch):
    data = pickle.dumps(make().stream())
    monkeypatch.setattr(layers, "PICKLE_VERSION", layers.PICKLE_VERSION + 1)
    with pytest.raises(ValueError, match="pickled with version"):
        pickle.loads(data)


# A stream and its layer ---------------------------------------------------------------------------


def test_new_weights_count_from_the_next_step_and_the_state_stays():
    layer, other, x = make(), LSTM(I, H, L, rng=1), normal(T, I)
    stream = layer.stream()
    first = stream.run(x[:4])
    state = stream.state
    layer.load_state_dict(other.state_dict())
    assert_same_state(stream.state, state)
    assert_same_bits(first, make().forward(x[:4])[0])
    y, _ = other.forward(x[4:], state)
    assert_same_bits(np.stack([stream.step(x_t) for x_t in x[4:]]), y)


@pytest.mark.parametrize("old", [False, True], ids=["a new stream", "a stream that has run"])
def test_a_chunk_uses_the_current_weights(old):
    layer, other, x = make(), LSTM(I, H, L, rng=1), normal(T, I)
    stream = layer.stream()
    if old:
        stream.run(x)
        stream.reset()
    with layer.writable() as p:
        p.update(other.state_dict())
    assert_same_bits(stream.run(x), other.forward(x)[0])


def test_an_edit_in_progress_does_not_reach_a_stream():
    layer, x = make(), normal(I)
    stream, expected = layer.stream(), make().stream().step(x)
    with layer.writable() as p:
        for array in p.values():
            array[...] = 0
        assert_same_bits(stream.step(x), expected)


def test_a_stream_keeps_its_layer_alive():
    stream = make().stream()
    assert_same_bits(stream.step(normal(I)), make().stream().step(normal(I)))


def test_a_bidirectional_layer_says_why_it_can_not_stream():
    with pytest.raises(
        ValueError, match="bidirectional layer can not stream: its reverse direction begins at the last"
    ):
        make(bidirectional=True).stream()


def test_many_streams_over_one_layer_do_not_know_of_each_other():
    layer, xs = make(), normal(50, T, I)
    streams = [layer.stream() for _ in xs]
    ys = np.stack(
        [[stream.step(x[t]) for stream, x in zip(streams, xs, strict=True)] for t in range(T)], axis=1
    )
    for y, x in zip(ys, xs, strict=True):
        assert_same_bits(y, layer.forward(x)[0])


def test_rows_of_one_stream_do_not_know_of_each_other():
    layer, x = make(), normal(T, 20, I)
    y = layer.stream(20).run(x)
    for row in range(20):
        assert_same_bits(np.ascontiguousarray(y[:, row]), layer.stream().run(x[:, row]))


def test_a_step_of_so_many_rows_that_it_goes_in_parts_has_the_bits_of_each_row():
    layer, x = LSTM(700, 900, rng=0), normal(2, 100, 700)  # parts of 48 rows
    stream = layer.stream(100)
    for step in x:
        y = stream.step(step)
    for row in (0, 47, 48, 96, 99):
        expected, (h_n, c_n) = layer.forward(x[:, row : row + 1])
        assert_same_bits(y[row], expected[1, 0])
        assert_same_bits(stream.state[0][0, row], h_n[0, 0])
        assert_same_bits(stream.state[1][0, row], c_n[0, 0])


def test_a_stream_says_what_it_belongs_to():
    layer = make()
    stream = layer.stream(N)
    assert isinstance(stream, Stream)
    assert stream.layer is layer
    assert stream.batch_size == N
    assert layer.stream().batch_size is None


# Threads ------------------------------------------------------------------------------------------

# Large enough that a step takes about a millisecond, without the GIL: another thread gets in between.
WIDE, ROWS, STEPS = 384, 16, 60
# Seconds that a thread stays out of the stream after each visit: of two that are inside almost always, one may keep the
# other out for ever.
PAUSE = 2e-4


@pytest.fixture(scope="module")
def wide():
    """A layer, one step's x, and the state after each number of steps over it, all computed alone."""
    layer, x = LSTM(WIDE, WIDE, rng=0), normal(ROWS, WIDE)
    stream = layer.stream(ROWS)
    states = [stream.state]
    for _ in range(2 * STEPS):
        stream.step(x)
        states.append(stream.state)
    return layer, x, states


def test_a_state_with_a_batch_axis_is_refused_for_the_reason_that_it_is():
    with pytest.raises(ValueError, match=r"state h has shape \(2, 3, 6\), expected .*as the stream has no batch_size"):
        make().stream().reset((normal(L, N, H), normal(L, N, H)))


def test_of_two_threads_in_one_stream_the_second_gets_an_error_and_no_result_is_wrong(wide):
    layer, x, states = wide
    stream, results, errors = layer.stream(ROWS), [], []
    barrier = threading.Barrier(2)

    def work():
        barrier.wait()
        for _ in range(STEPS):
            try:
                results.append(stream.step(x))
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert set(errors) == {"another thread is inside this stream: give each thread a stream of its own"}
    assert len(results) + len(errors) == 2 * STEPS
    # Each step that was let in is one step further along the sequence, and none happened twice.
    outputs = {h[-1].tobytes(): number for number, (h, _) in enumerate(states)}
    assert sorted(outputs[y.tobytes()] for y in results) == list(range(1, len(results) + 1))
    assert_same_state(stream.state, states[len(results)])


def bits(state):
    return b"".join(part.tobytes() for part in state)


INTRUSIONS = {
    "state": lambda s: s.state,
    "copy": lambda s: s.copy().state,
    "deepcopy": lambda s: copy.deepcopy(s).state,
    "pickle": lambda s: pickle.loads(pickle.dumps(s)).state,
}


@pytest.mark.parametrize("intrude", INTRUSIONS.values(), ids=INTRUSIONS)
def test_a_state_read_while_another_thread_steps_is_whole_or_refused(wide, intrude):
    layer, x, states = wide
    stream = layer.stream(ROWS)

    def stepped():
        try:
            stream.step(x)
        except RuntimeError:  # the reader was inside
            return False
        return True

    def work():
        for _ in range(STEPS):
            while not stepped():
                pass
            time.sleep(PAUSE)

    thread = threading.Thread(target=work)
    thread.start()
    known = {bits(state): number for number, state in enumerate(states)}
    read = []
    while thread.is_alive():
        try:
            read.append(known.get(bits(intrude(stream))))
        except RuntimeError as error:
            assert "another thread is inside this stream" in str(error)
        time.sleep(PAUSE)
    thread.join()
    assert read
    assert None not in read, f"{read.count(None)} of {len(read)} states are of no step"
    assert_same_state(stream.state, states[STEPS])


def test_a_chunk_in_progress_refuses_everyone_else_and_ends_as_if_alone(wide):
    layer, x, states = wide
    stream, results, x = layer.stream(ROWS), [], np.broadcast_to(x, (2 * STEPS, *x.shape))

    def work():
        while not results:
            with contextlib.suppress(RuntimeError):  # reset was inside
                results.append(stream.run(x))

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(RuntimeError, match="another thread is inside this stream"):
        while thread.is_alive():
            stream.reset()  # to the zeros that the chunk begins with, until the chunk is under way
            time.sleep(PAUSE)
    for intrude in (lambda: stream.step(x[0]), lambda: stream.run(x[:1]), stream.reset):
        with pytest.raises(RuntimeError, match="another thread is inside this stream"):
            intrude()
    thread.join()
    assert_same_bits(np.ascontiguousarray(results[0][-1]), states[2 * STEPS][0][-1])
    assert_same_state(stream.state, states[2 * STEPS])


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("rows", [None, 0, 2])
def test_a_stream_begins_with_the_default_state(kind, rows):
    layer = kind(3, 4, 2, rng=0)
    rng = np.random.default_rng(0)
    default = [rng.standard_normal((2, 4)).astype(np.float32) for _ in layer._states]
    before = layer.stream(rows)
    layer.default_state = default if len(default) > 1 else default[0]
    first = rng.standard_normal((3,) if rows is None else (rows, 3)).astype(np.float32)
    x = np.stack([first, first])
    expected = layer.forward(x if rows != 0 else np.zeros((2, 0, 3), np.float32))[0]
    stream = layer.stream(rows)
    np.testing.assert_array_equal(np.stack([stream.step(row) for row in x]), expected)
    stream.reset()
    np.testing.assert_array_equal(stream.run(x), expected)
    other = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(other.step(first), stream.copy().step(first))
    if rows != 0:  # what is set while a stream goes on counts from its next reset
        assert (before.step(first) != expected[0]).any()
    before.reset()
    np.testing.assert_array_equal(before.step(first), expected[0])
    layer.default_state = None
    stream.reset()
    state = stream.state
    assert not np.any(state[0] if isinstance(state, tuple) else state)
