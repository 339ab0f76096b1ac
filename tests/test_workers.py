"""The pool of threads: every task once, whoever calls it; what is raised, and when threads end."""

import signal
import threading
import time
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


def ours():
    return {thread for thread in threading.enumerate() if thread.name == "cylstm"}


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

    def task():
        threads.append(threading.current_thread())
        meeting.wait(60)

    before = ours()
    for _ in range(2):  # by the same ones
        threads.clear()
        pool.run([task] * 3, Cancellation())
        assert len(threads) == 3
        assert set(threads) == {threading.current_thread()} | ours() - before


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


def test_no_thread_is_to_be_had(pool, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    called = []
    pool.run([lambda: called.append(0), lambda: called.append(1)], Cancellation())
    assert called == [0, 1]
    monkeypatch.undo()
    meeting = threading.Barrier(3)
    pool.run([lambda: meeting.wait(60)] * 3, Cancellation())  # and later they are


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


def test_an_error_asks_the_others_to_stop(pool):
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
    with pytest.raises(ValueError):
        pool.run([fail, work], cancellation)
    assert cancellation.requests == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to send to this thread")
def test_ctrl_c_while_waiting_for_another_thread(pool):
    here, begun, ended = threading.main_thread().ident, threading.Event(), []

    def work():
        begun.set()
        time.sleep(0.2)  # the first task has ended long ago, and who called it sleeps
        signal.pthread_kill(here, signal.SIGINT)
        time.sleep(0.1)
        signal.pthread_kill(here, signal.SIGINT)  # a second one does not end the waiting either
        time.sleep(0.1)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        pool.run([lambda: begun.wait(60), work], Cancellation())
    assert ended == [True]


def test_closing_ends_the_threads(pool):
    before = ours()
    meeting = threading.Barrier(3)
    pool.run([lambda: meeting.wait(60)] * 3, Cancellation())
    assert len(ours() - before) == 2
    pool.close()
    wait_until(lambda: ours() <= before)


def test_closing_while_a_thread_works():
    pool = Pool(1)
    before = ours()
    pool.run([lambda: None, pool.close], Cancellation())
    wait_until(lambda: ours() <= before)


def test_a_new_number_of_threads_ends_those_before():
    before = parallel.get_num_threads()
    meeting = threading.Barrier(2)
    try:
        cylstm.set_num_threads(2)
        parallel.run([lambda: meeting.wait(60)] * 2, Cancellation())
        found = ours()
        cylstm.set_num_threads(1)
        wait_until(lambda: not found & ours())
    finally:
        cylstm.set_num_threads(before)
