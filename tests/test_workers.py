"""The pool of threads: every task once, whoever calls it; what is raised, and when threads end."""

import gc
import os
import signal
import threading
import time
import weakref
from functools import partial

import pytest
from cylstm._core.sequence import Cancellation
from cylstm._core.workers import Pool

import cylstm
from cylstm import parallel


@pytest.fixture
def pool():
    pool = Pool(2)
    yield pool
    pool.close()


def living():
    """The threads of this process, as the system counts them."""
    return {int(name) for name in os.listdir("/proc/self/task")}


threads_are_listed = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no list of a process's threads")


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_every_task_is_called_once(pool):
    for count in (1, 2, 3, 8):
        for _ in range(50):
            called = []
            pool.run([partial(called.append, k) for k in range(count)], Cancellation())
            assert sorted(called) == list(range(count))


def test_tasks_run_side_by_side_and_the_first_one_here(pool):
    meeting, threads = threading.Barrier(3), []

    def task(first):
        assert not first or threading.get_ident() == here
        threads.append(threading.get_ident())
        meeting.wait(60)

    here = threading.get_ident()
    for _ in range(2):
        pool.run([partial(task, True), partial(task, False), partial(task, False)], Cancellation())
    assert len(set(threads[:3])) == 3
    assert set(threads[:3]) == set(threads[3:])  # the same ones again


@pytest.mark.parametrize("helpers", [False, True])
def test_what_no_thread_is_free_for(helpers):
    pool = Pool(1)
    begun, end = threading.Event(), threading.Event()

    def occupy():
        begun.set()
        end.wait(60)

    other = threading.Thread(target=pool.run, args=([lambda: end.wait(60), occupy], Cancellation()))
    other.start()
    try:
        assert begun.wait(60)
        called = []
        pool.run([lambda: called.append(0), lambda: called.append(1)], Cancellation(), helpers)
        assert called == ([0] if helpers else [0, 1])
    finally:
        end.set()
        other.join()
        pool.close()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_waits_for_the_others_and_is_raised(pool, failing):
    begun, ended = threading.Event(), []

    def fail():
        assert begun.wait(60)
        raise ValueError("as it was raised")

    def work():
        begun.set()
        time.sleep(0.1)
        ended.append(True)

    tasks = [work, work]
    tasks[failing] = fail
    with pytest.raises(ValueError, match="as it was raised"):
        pool.run(tasks, Cancellation())
    assert ended == [True]
    called = []
    pool.run([lambda: called.append(0), lambda: called.append(1)], Cancellation())  # and is forgotten
    assert sorted(called) == [0, 1]


def test_of_two_errors_one_is_raised_and_none_comes_later(pool):
    meeting = threading.Barrier(3)

    def fail():
        meeting.wait(60)
        raise ValueError

    with pytest.raises(ValueError):
        pool.run([lambda: meeting.wait(60), fail, fail], Cancellation())
    meeting.reset()
    pool.run([lambda: meeting.wait(60)] * 3, Cancellation())  # in the same threads


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_asks_the_others_to_stop(pool, failing):
    class Recorded(Cancellation):
        requests = 0

        def request(self):
            self.requests += 1
            stopped.set()

    stopped, begun = threading.Event(), threading.Event()

    def fail():
        assert begun.wait(60)
        raise ValueError

    def work():
        begun.set()
        assert stopped.wait(60)

    cancellation = Recorded()
    tasks = [work, work]
    tasks[failing] = fail
    with pytest.raises(ValueError):
        pool.run(tasks, cancellation)
    assert cancellation.requests > 0


def test_after_an_error_no_task_is_begun():
    pool, called = Pool(1), []

    def fail():
        raise ValueError

    def first():
        assert stopped.wait(60)

    class Recorded(Cancellation):
        def request(self):
            stopped.set()

    stopped = threading.Event()
    with pytest.raises(ValueError):
        pool.run([first, *[lambda: called.append(True)] * 5, fail], Recorded())  # taken from the end
    assert called == []
    pool.close()


def test_an_error_is_not_kept(pool):
    class Error(Exception):
        pass

    def fail():
        meeting.wait(60)
        error = Error()
        alive.add(error)
        raise error

    meeting, alive = threading.Barrier(3), weakref.WeakSet()
    with pytest.raises(Error):
        pool.run([lambda: meeting.wait(60), fail, fail], Cancellation())
    gc.collect()
    assert len(alive) == 0


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to send to this thread")
def test_ctrl_c_while_waiting_for_another_thread(pool):
    here, begun, ended, signals = threading.main_thread().ident, threading.Event(), [], []

    def interrupt(*_):
        signals.append(True)
        if not ended:  # the second one may be seen as late as after the waiting
            raise KeyboardInterrupt

    def work():
        begun.set()
        time.sleep(0.2)  # the first task has ended long ago, and who called it sleeps
        signal.pthread_kill(here, signal.SIGINT)
        time.sleep(0.1)
        signal.pthread_kill(here, signal.SIGINT)  # a second one does not end the waiting either
        time.sleep(0.1)
        ended.append(True)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.run([lambda: begun.wait(60), work], Cancellation())
        assert ended == [True]
        wait_until(lambda: len(signals) == 2)
    finally:
        signal.signal(signal.SIGINT, before)


@threads_are_listed
def test_closing_ends_the_threads(pool):
    before = living()
    meeting = threading.Barrier(3)
    pool.run([lambda: meeting.wait(60)] * 3, Cancellation())
    assert len(living() - before) == 2
    pool.close()
    wait_until(lambda: living() <= before)


@threads_are_listed
def test_closing_while_a_thread_works():
    pool = Pool(1)
    before = living()
    meeting = threading.Barrier(2)
    pool.run([lambda: meeting.wait(60), lambda: (pool.close(), meeting.wait(60))], Cancellation())
    wait_until(lambda: living() <= before)


@threads_are_listed
def test_a_new_number_of_threads_ends_those_before():
    number, before = parallel.get_num_threads(), living()
    meeting = threading.Barrier(2)
    try:
        cylstm.set_num_threads(2)
        parallel.run([lambda: meeting.wait(60)] * 2, Cancellation())
        cylstm.set_num_threads(1)
        wait_until(lambda: living() <= before)
    finally:
        cylstm.set_num_threads(number)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no signal of our own")
def test_a_signal_handler_may_compute_while_the_pool_is_made(monkeypatch):
    number, called = parallel.get_num_threads(), []
    tasks = [lambda: called.append(0), lambda: called.append(1)]

    def interrupted(size, crowded):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGUSR1)
        return Pool(size, crowded)

    before = signal.signal(signal.SIGUSR1, lambda *_: parallel.run(tasks, Cancellation()))
    try:
        cylstm.set_num_threads(2)
        monkeypatch.setattr(parallel, "Pool", interrupted)
        parallel.run(tasks, Cancellation())
        assert sorted(called) == [0, 0, 1, 1]
    finally:
        signal.signal(signal.SIGUSR1, before)
        cylstm.set_num_threads(number)


def test_more_threads_than_any_machine_has():
    number, meeting = parallel.get_num_threads(), threading.Barrier(2)
    try:
        cylstm.set_num_threads(10**30)
        parallel.run([lambda: meeting.wait(60)] * 2, Cancellation())
    finally:
        cylstm.set_num_threads(number)
