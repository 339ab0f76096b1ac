"""The promises about memory, threads, processes, signals and imports, each in its own surroundings.

What changes a process (its modules, its forks, its signals) runs in a process of its own.
"""

import gc
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cylstm
from cylstm import GRU, LSTM, RNN, Dense, Tape
from cylstm._core import dispatch

TOOLS = pathlib.Path(__file__).parent.parent / "tools"
# A child process imports the cylstm that is tested here, installed or not.
WHERE = [str(pathlib.Path(cylstm.__file__).parent.parent), os.environ.get("PYTHONPATH")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, WHERE))}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident size is read from /proc"
)
needs_sigint = pytest.mark.skipif(os.name == "nt", reason="Windows can not send Ctrl-C to one process alone")


def python(program, timeout=60, **environment):
    """Run a program in a fresh interpreter; its standard output. An exception there is an error here."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**ENVIRONMENT, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def normal(*shape, seed=5):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def threads():
    """set_num_threads, undone at the end."""
    before = cylstm.get_num_threads()
    yield cylstm.set_num_threads
    cylstm.set_num_threads(before)


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_step_with_out_allocates_nothing(batch_size, kind):
    """tracemalloc sees every array and object at its peak; the count of blocks also what is not traced."""
    stream = kind(4, 20, 2, rng=0).stream(batch_size)
    rows = () if batch_size is None else (batch_size,)
    x, out = normal(*rows, 4), np.empty((*rows, 20), np.float32)
    step = stream.step
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            step(x, out)
        before = sys.getallocatedblocks()
        for _ in range(5000):
            step(x, out)
        assert sys.getallocatedblocks() - before <= 5  # the loop's own counter, and this comparison
        tracemalloc.start()
        for _ in range(100):
            step(x, out)
        peaks = []
        while len(peaks) < 5 and (not peaks or min(peaks) >= 500):  # other threads, of pytest's, allocate now and then
            tracemalloc.reset_peak()
            size = tracemalloc.get_traced_memory()[0]
            for _ in range(5000):
                step(x, out)
            peaks.append(tracemalloc.get_traced_memory()[1] - size)
    finally:
        tracemalloc.stop()
        gc.enable()
    assert min(peaks) < 500, peaks  # an output array is 112 bytes and its data: 5000 of them would be half a million


@pytest.mark.parametrize("part", ["inference", "training", "streams", "writers"])
@needs_proc
def test_memory_is_flat_over_thousands_of_calls_of_random_shapes(part):
    """The same program goes on for a million calls when run by hand."""
    calls = {"inference": 5000, "training": 1200, "streams": 4000, "writers": 1000}[part]
    done = subprocess.run(
        [sys.executable, str(TOOLS / "soak.py"), part, str(calls)],
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_threads", [1, 3, 6])
def test_many_threads_may_use_one_layer_at_once(threads, own_threads):
    threads(1)
    layer = LSTM(32, 96, 2, bidirectional=True, rng=0)
    xs = [normal(20 + n, 8 + n, 32, seed=n) for n in range(8)]
    expected = [layer.forward(x)[0].tobytes() for x in xs]
    layer.load_state_dict(layer.state_dict())  # packed anew, by whoever comes first
    threads(own_threads)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert [y.tobytes() for y, _ in pool.map(layer.forward, xs)] == expected


def test_many_threads_may_train_over_one_layer_with_a_tape_each():
    layer, xs = LSTM(16, 48, 2, rng=0), [normal(15, 5 + n, 16, seed=n) for n in range(8)]

    def gradients(x):
        tape = Tape(seed=1)
        y, _ = layer.forward(x, tape=tape)
        return layer.backward(tape, y)

    expected = [gradients(x) for x in xs]
    layer.load_state_dict(layer.state_dict())
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(gradients, xs), expected, strict=True):
            for name, array in wanted.parameters.items():
                assert found.parameters[name].tobytes() == array.tobytes(), name


def test_many_threads_may_each_have_a_stream_over_one_layer():
    layer, xs = LSTM(64, 160, rng=0), [normal(40, 64, seed=n) for n in range(6)]
    expected = [layer.forward(x)[0].tobytes() for x in xs]

    def steps(x):
        stream = layer.stream()
        return np.stack([stream.step(x_t) for x_t in x]).tobytes()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(steps, xs)) == expected


@pytest.mark.parametrize("make", [lambda rng: LSTM(24, 80, 2, rng=rng), lambda rng: Dense(24, 500, rng=rng)])
def test_readers_beside_a_writer_see_the_old_weights_or_the_new_ones_and_nothing_between(make):
    layer, other, x = make(0), make(1), normal(30, 6, 24)

    def output():
        result = layer.forward(x)
        return (result[0] if isinstance(result, tuple) else result).tobytes()

    weights = layer.state_dict(), other.state_dict()
    allowed = []
    for each in weights:
        layer.load_state_dict(each)
        allowed.append(output())
    assert allowed[0] != allowed[1]
    stop, seen = threading.Event(), [set() for _ in range(3)]

    def read(found):
        while not stop.is_set():
            found.add(output())

    readers = [threading.Thread(target=read, args=(found,)) for found in seen]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        for each in weights:
            layer.load_state_dict(each)
            with layer.writable() as p:  # and by way of an edit that says nothing new
                p.update(each)
    stop.set()
    for reader in readers:
        reader.join()
    assert set().union(*seen) == set(allowed)


def test_the_gil_is_released_in_a_long_forward():
    """Another thread counts meanwhile: with the GIL held it would not come to its first number."""
    layer, x = LSTM(256, 256, rng=0), normal(400, 16, 256)
    layer.forward(x[:1])
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    time.sleep(0.01)
    began, before = time.perf_counter(), counted[0]
    layer.forward(x)
    seconds, during = time.perf_counter() - began, counted[0] - before
    stop.set()
    thread.join()
    assert during > 50 * seconds  # of 1000 a second on an idle machine


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_number_of_threads_is_what_was_set(threads, n):
    threads(n)
    assert cylstm.get_num_threads() == n


def test_the_number_of_threads_is_by_default_that_of_the_cpus_of_this_process():
    program = "import os, cylstm; print(cylstm.get_num_threads(), {})"
    count = "len(os.sched_getaffinity(0))" if hasattr(os, "sched_getaffinity") else "os.cpu_count()"
    found, expected = python(program.format(count)).split()
    assert found == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_a_process_bound_to_one_cpu_has_one_thread():
    program = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import cylstm
        print(cylstm.get_num_threads())
    """
    assert python(program) == "1"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [50, 0, 7] * 10])
def test_the_number_of_threads_does_not_change_a_bit(threads, bidirectional, lengths):
    layer, x = LSTM(40, 72, 2, bidirectional=bidirectional, rng=0), normal(50, 30, 40)
    results = []
    for n in (1, 2, 3, 8):
        threads(n)
        y, (h_n, c_n) = layer.forward(x, lengths=lengths)
        results.append(y.tobytes() + h_n.tobytes() + c_n.tobytes())
    assert len(set(results)) == 1


def test_after_a_change_every_thread_has_the_new_parameters(threads):
    layer, x, dy = LSTM(40, 72, rng=0), normal(50, 30, 40), normal(50, 30, 72)

    def results():
        tape = cylstm.Tape()
        y, _ = layer.forward(x, tape=tape)
        gradients = layer.backward(tape, dy)
        arrays = [y, layer.forward(x)[0], gradients.dx, gradients.parameters["weight_hh_l0"]]
        return [array.tobytes() for array in arrays]

    threads(3)
    before = results()
    with layer.writable() as parameters:
        parameters["weight_hh_l0"] *= 2
    found = results()
    assert not set(found) & set(before)
    threads(1)
    assert found == results()


def test_the_copies_of_weights_go_with_the_parameters(threads):
    threads(3)
    layer, x = LSTM(40, 72, rng=0), normal(50, 30, 40)
    counts = []
    for _ in range(20):
        layer.load_state_dict(layer.state_dict())
        layer.forward(x)
        gc.collect()
        counts.append(sum(type(thing).__name__ == "Weights" for thing in gc.get_objects()))
    assert counts[0] > 1  # there are copies
    assert counts == counts[:1] * 20


# Forks --------------------------------------------------------------------------------------------

FORK = """
    import os, sys, threading
    import numpy as np, cylstm
    cylstm.set_num_threads(6)
    layer = cylstm.LSTM(64, 128, 2, bidirectional=True, rng=0)
    x = np.random.default_rng(0).standard_normal((60, 24, 64), dtype=np.float32)
    expected = layer.forward(x)[0].tobytes()
    pools = dict(cylstm.parallel._pools)
    assert len(pools) == 1, "this size is meant to use threads"

    def same(_=None):
        return layer.forward(x)[0].tobytes() == expected
"""


@needs_fork
def test_a_forked_child_computes_the_same_bits_with_threads_of_its_own():
    program = """
        child = os.fork()
        if child == 0:
            ok = cylstm.get_num_threads() == 6 and same()
            ok = ok and cylstm.parallel._pools.keys() == pools.keys() and cylstm.parallel._pools != pools
            if os.path.isdir("/proc/self/task"):
                ok = ok and len(os.listdir("/proc/self/task")) > 1
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert same()  # and the parent goes on
        print("same")
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(program)) == "same"


@needs_fork
def test_a_multiprocessing_pool_made_by_fork_computes_the_same_bits():
    program = """
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(same, range(4)) == [True] * 4
        assert same()
        print("same")
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(program)) == "same"


@needs_fork
def test_a_child_forked_while_other_threads_compute_can_compute():
    program = """
        stop = threading.Event()
        def work():
            while not stop.is_set():
                layer.forward(x)
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if same() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for worker in workers:
            worker.join()
        print("same")
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(program)) == "same"


def test_a_spawned_process_takes_a_layer_by_pickle():
    program = """
        import pickle, sys
        import numpy as np
        layer, x, expected = pickle.loads(sys.stdin.buffer.read())
        assert layer.forward(x)[0].tobytes() == expected
    """
    layer, x = LSTM(3, 17, 2, rng=0), normal(5, 2, 3)
    data = pickle.dumps((layer, x, layer.forward(x)[0].tobytes()))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input=data,
        capture_output=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr.decode()


# Ctrl-C -------------------------------------------------------------------------------------------

INTERRUPTED = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
    import numpy as np, cylstm
    cylstm.set_num_threads({threads})
    {prepare}
    small = np.ones((5, 3, layer.parameters["{weight}"].shape[1]), layer.dtype)
    def usable():
        result = layer.forward(small)
        return (result[0] if isinstance(result, tuple) else result).tobytes()
    before = usable()
    print("ready", flush=True)
    try:
        {call}
        print("finished", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    assert usable() == before
    {after}
    print("usable", flush=True)
"""
# Each call would go on for five seconds and more.
LONG = (
    "layer = cylstm.LSTM(512, 512, rng=0); x = np.broadcast_to(np.float32([1] * 512), (200_000, {rows}, 512))"
)
CALLS = {
    "forward, one thread": dict(threads=1, prepare=LONG.format(rows=1), call="layer.forward(x)"),
    "forward, two threads that share out the units": dict(
        threads=2, prepare=LONG.format(rows=1), call="layer.forward(x)"
    ),
    "forward, several threads": dict(threads=4, prepare=LONG.format(rows=16), call="layer.forward(x)"),
    "forward, two directions": dict(
        threads=2,
        prepare=LONG.format(rows=1).replace("rng=0", "bidirectional=True, rng=0"),
        call="layer.forward(x)",
    ),
    "a stream's chunk": dict(
        threads=1,
        prepare=LONG.format(rows=1) + "; s = layer.stream(); s.step(x[0, 0]); state = s.state",
        call="s.run(x[:, 0])",
        after="assert all((a == b).all() for a, b in zip(s.state, state))",
    ),
    "one step of many rows": dict(
        threads=1,
        prepare="layer = cylstm.LSTM(16, 1024, rng=0); x = np.ones((1, 30_000, 16), np.float32)",
        call="layer.forward(x)",
    ),
    "Dense": dict(
        threads=1,
        prepare="layer = cylstm.Dense(4096, 4096, dtype='float64', rng=0); x = np.ones((4096, 4096))",
        call="layer.forward(x)",
        weight="weight",
    ),
}


@needs_sigint
@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_ctrl_c_ends_a_long_call_soon_and_leaves_the_layer_usable(options):
    options = {"weight": "weight_ih_l0", "after": "pass", **options}
    program = textwrap.dedent(INTERRUPTED).format(**options)
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        time.sleep(0.4)
        began = time.perf_counter()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        seconds = time.perf_counter() - began
        # Not communicate(), which would miss what readline() has read ahead.
        assert child.stdout.readline() == "usable\n", child.stderr.read()
        assert seconds < 2
    finally:
        child.kill()
        child.communicate()


@needs_sigint
def test_ctrl_c_leaves_no_tape_that_looks_recorded():
    """The forward that was interrupted is not there for backward, and the tape can be used again."""
    program = """
        import signal, threading, time, _thread
        import numpy as np, cylstm
        signal.signal(signal.SIGINT, signal.default_int_handler)
        layer, tape = cylstm.LSTM(256, 256, rng=0), cylstm.Tape()
        x = np.ones((4, 1, 256), np.float32)
        layer.forward(x, tape=tape)
        long = np.broadcast_to(x[:1], (40_000, 8, 256))
        threading.Timer(0.2, _thread.interrupt_main).start()
        try:
            layer.forward(long, tape=tape)
            print("finished")
        except KeyboardInterrupt:
            pass
        try:
            layer.backward(tape, np.ones((4, 1, 256), np.float32))
        except RuntimeError as error:
            print(error)
        y, _ = layer.forward(x, tape=tape)
        assert np.isfinite(layer.backward(tape, y).dx).all()
    """
    assert python(program).startswith("the tape is empty or already spent")


# Imports ------------------------------------------------------------------------------------------


def test_importing_costs_at_most_15_ms_over_numpy(tmp_path):
    """The first run writes the bytecode. The processor's time, and the least, because a busy machine only adds."""
    program = "import numpy, time; t = time.process_time(); import cylstm; print(time.process_time() - t)"
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    python(program, **bytecode)
    seconds = []
    while len(seconds) < 4 or (min(seconds) > 0.015 and len(seconds) < 20):
        seconds.append(float(python(program, **bytecode)))
    assert min(seconds) <= 0.015, seconds


def test_importing_loads_neither_scipy_nor_numpys_random_nor_any_thread():
    program = """
        import sys, threading, numpy
        before = set(sys.modules)
        import cylstm
        print(*sorted(set(sys.modules) - before), threading.active_count())
    """
    *modules, count = python(program).split()
    heavy = (
        "scipy",
        "numpy.",
        "concurrent",
        "multiprocessing",
        "asyncio",
        "ctypes",
        "cylstm.reference",
        "cylstm._core.blas",
    )
    assert [name for name in modules if name.startswith(heavy)] == []
    assert count == "1"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no list of the threads of a process")
def test_small_work_starts_no_threads():
    program = """
        import os, numpy as np, cylstm
        before = os.listdir("/proc/self/task")
        cylstm.set_num_threads(8)
        layer = cylstm.LSTM(8, 16, 2, bidirectional=True, rng=0)
        layer.forward(np.ones((20, 4, 8), np.float32))
        cylstm.LSTM(8, 16, rng=0).stream().step(np.ones(8, np.float32))
        print(os.listdir("/proc/self/task") == before)
    """
    assert python(program) == "True"


@pytest.mark.parametrize("begun", [True, False])
def test_a_call_while_the_interpreter_ends(begun):
    program = f"""
        import numpy as np, cylstm
        cylstm.set_num_threads(2)
        lstm, x = cylstm.LSTM(64, 128, rng=0), np.ones((60, 16, 64), np.float32)
        def close(forward=lstm.forward, x=x, print=print):
            try:
                yield
            finally:
                print(forward(x)[0].shape)
        if {begun}:
            lstm.forward(x)
        generator = close()
        next(generator)
    """
    assert python(program) == "(60, 16, 128)"


def test_inference_and_training_without_dense_do_not_load_scipy():
    program = """
        import sys, numpy as np, cylstm
        x = np.ones((5, 2, 3), np.float32)
        lstm, tape = cylstm.LSTM(3, 4, rng=0), cylstm.Tape()
        y, _ = lstm.forward(x, tape=tape)
        lstm.backward(tape, y), lstm.stream(2).run(x), cylstm.Dense(3, 4, rng=0).forward(x)
        print([name for name in sys.modules if name.startswith("scipy")])
    """
    assert python(program) == "[]"


WITHOUT_SCIPY = """
    import sys
    class WithoutScipy:
        def __init__(self, finder):
            self.finder = finder
        def find_spec(self, name, path=None, target=None):
            return None if name.split(".")[0] == "scipy" else self.finder.find_spec(name, path, target)
    finders = sys.meta_path[:]
    sys.meta_path[:] = map(WithoutScipy, finders)
    import numpy as np, cylstm
    x = np.ones((5, 2, 3), np.float32)
    lstm, tape = cylstm.LSTM(3, 4, rng=0), cylstm.Tape()
    dense, dense_tape = cylstm.Dense(3, 4, rng=0), cylstm.Tape()
    y, _ = lstm.forward(x, tape=tape)
    z = dense.forward(x, tape=dense_tape)
    model, model_tape = cylstm.Sequential([cylstm.LSTM(3, 4, rng=0), cylstm.Dense(4, 2, rng=0)]), cylstm.Tape()
    w, _ = model.forward(x, tape=model_tape)
"""


def test_all_but_the_backward_of_dense_works_where_scipy_is_not_installed():
    program = """
        assert (lstm.stream(2).run(x) == y).all() and (lstm.forward(x)[0] == y).all()
        dx = lstm.backward(tape, y).dx
        print(y.shape, z.shape, dx.shape, "SciPy is not installed" in cylstm.show_config()["blas"])
    """
    expected = "(5, 2, 4) (5, 2, 4) (5, 2, 3) True"
    assert python(textwrap.dedent(WITHOUT_SCIPY) + textwrap.dedent(program)) == expected


@pytest.mark.parametrize("call", ["dense.backward(dense_tape, z)", "model.backward(model_tape, w)"])
def test_the_backward_of_dense_without_scipy_says_so_and_does_not_spend_the_tape(call):
    """Asked twice, for the second time must not find the tape empty; then SciPy is there after all."""
    program = f"""
        for _ in range(2):
            try:
                {call}
            except ImportError as error:
                assert "SciPy" in str(error), error
                print("ImportError")
        sys.meta_path[:] = finders
        print({call}.dx.shape)
    """
    assert python(textwrap.dedent(WITHOUT_SCIPY) + textwrap.dedent(program)).split("\n") == [
        "ImportError", "ImportError", "(5, 2, 3)",
    ]  # fmt: skip


# Instruction-set levels ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", dispatch.supported_levels())
def test_every_supported_level_can_be_chosen_and_computes(level):
    program = """
        import numpy as np, cylstm
        layer, tape = cylstm.LSTM(3, 5, rng=0), cylstm.Tape()
        y, _ = layer.forward(np.ones((4, 2, 3), np.float32), tape=tape)
        assert np.isfinite(layer.backward(tape, y).dx).all()
        print(cylstm.show_config()["level"])
    """
    assert python(program, CYLSTM_ISA=level) == level


def test_levels_with_fused_multiply_add_give_the_same_bits():
    """The portable level has none and is left out; of one level there is nothing to compare."""
    program = """
        import hashlib, numpy as np, cylstm
        from cylstm._core.gradients import WeightGradient
        rng, digest = np.random.default_rng(0), hashlib.sha256()
        for dtype in ("float32", "float64"):
            for hidden_size in (1, 7, 16, 33, 100):
                layer = cylstm.LSTM(9, hidden_size, 2, bidirectional=True, dtype=dtype, rng=rng)
                x = rng.standard_normal((13, 5, 9)).astype(dtype)
                y, (h, c) = layer.forward(x, lengths=[13, 1, 0, 7, 12])
                dense = cylstm.Dense(2 * hidden_size, 11, activation="softmax", dtype=dtype, rng=rng)
                for array in (y, h, c, dense.forward(y)):
                    digest.update(array.tobytes())
            product = WeightGradient(rng.standard_normal((600, 160)).astype(dtype), rng.random((600, 21), dtype))
            product.fill(0, product.parts, None)
            digest.update(product.columns(1, 160, 0, 21).tobytes())
        print(digest.hexdigest())
    """
    levels = [level for level in dispatch.supported_levels() if level != "baseline"]
    assert len({python(program, CYLSTM_ISA=level) for level in levels}) <= 1


@pytest.mark.parametrize("name", ["sse9", "avx", "avx512f", "0"])
def test_an_unknown_level_raises_and_lists_the_choices(name):
    program = """
        try:
            import cylstm
        except ImportError as error:
            print(error)
    """
    message = python(program, CYLSTM_ISA=name)
    assert repr(name) in message
    assert all(level in message for level in dispatch.supported_levels())


def test_the_fastest_supported_level_is_the_default():
    program = "import cylstm; print(cylstm.show_config()['level'])"
    assert python(program, CYLSTM_ISA="") == dispatch.supported_levels()[-1]


@pytest.mark.parametrize("chosen", [True, False], ids=["by name", "by default"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_level_that_does_not_import_raises_and_is_not_replaced_by_a_slower_one(dtype, chosen):
    level = dispatch.supported_levels()[-1]
    program = f"""
        import sys
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name == "cylstm._kernels.{level}_{dtype}":
                    raise ImportError("undefined symbol: tile")
        sys.meta_path.insert(0, Blocker())
        try:
            import cylstm
        except ImportError as error:
            print(error)
    """
    assert "undefined symbol: tile" in python(program, CYLSTM_ISA=level if chosen else "")


# Configuration ------------------------------------------------------------------------------------


def test_the_configuration_is_a_dict_with_what_a_bug_report_needs():
    config = cylstm.show_config()
    assert isinstance(config, dict)
    assert config["version"] == cylstm.__version__
    assert config["math_version"] == cylstm.MATH_VERSION
    assert config["level"] in config["levels_supported"]
    assert config["lanes_float32"] == dispatch.lanes("float32") >= config["lanes_float64"] >= 1
    assert config["threads"] == cylstm.get_num_threads()
    assert config["numpy"] == np.__version__
    assert {"blas", "openblas_core", "openblas_coretype_variable", "python"} <= config.keys()


def test_the_configuration_prints_as_a_table_of_one_line_for_each_entry():
    config = cylstm.show_config()
    for text in (str(config), repr(config)):
        lines = text.split("\n")
        assert [line.split()[0] for line in lines] == list(config)
        width = max(map(len, config))
        assert all(line[width : width + 2] == "  " and line[width + 2] != " " for line in lines)


def test_the_configuration_names_blas_and_its_integers_once_a_dense_backward_has_loaded_it():
    layer, tape = cylstm.Dense(2, 3, rng=0), Tape()
    y = layer.forward(normal(2, 1, 2), tape=tape)
    layer.backward(tape, y)
    blas = cylstm.show_config()["blas"]
    assert blas in ("scipy.linalg.cython_blas, 32-bit integers", "scipy.linalg.cython_blas, 64-bit integers")


def test_the_configuration_of_a_fresh_process_does_not_load_blas():
    program = """
        import sys, cylstm
        config = cylstm.show_config()
        print(config["blas"], "|", "scipy.linalg" in sys.modules)
    """
    assert python(program) == "scipy.linalg.cython_blas, loaded by the first Dense.backward | False"
