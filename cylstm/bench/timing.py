"""Times one statement: in loops, call by call, and with gaps between the calls."""

import math
import statistics
import time
import timeit

# A sample is a loop of calls at least this long: far above the clock's own cost.
_SAMPLE_SECONDS = 0.5e-3
_LEAST_SAMPLES = 3

# The statement stands in the loop itself, as timeit does it: no wrapper is timed with it.
_SINGLE = """
def single(_calls, _wait, _end):
    _spent = []
    for _ in range(_calls):
        _wait()
        if _clock() > _end:
            break
        _start = _clock()
        {statement}
        _spent.append(_clock() - _start)
    return _spent
"""


def percentile(values, percent):
    """The least of the values that at least ``percent`` % of them do not exceed; None if that needs more values.

    Below 100 values their largest would stand for the 99th percentile, whatever it is.

    >>> percentile(range(1, 1001), 99), percentile(range(1, 1001), 99.9), percentile(range(50), 99)
    (990, 999, None)
    """
    rank = math.ceil(round(len(values) * percent / 100, 9))  # 999.0000000000001 of 1000 is the 999th
    if rank < 1 or len(values) * (1 - percent / 100) < 1 - 1e-9:
        return None
    return sorted(values)[rank - 1]


def _compiled(statement, names):
    """A function (calls, wait, end by the clock) that gives the nanoseconds of each call of the statement."""
    scope = {**names, "_clock": time.perf_counter_ns}
    exec(_SINGLE.format(statement=statement), scope)
    return scope["single"]


def _nothing():
    pass


class Clock:
    """Times a job's statement, once it has run and is known to be right."""

    def __init__(self, timer, job):
        self._timer = timer
        self._job = job  # and with it all that the statement's library does not own
        self._single = _compiled(job.statement, job.names)
        self._gathered = {}
        self._calls = 1
        timer.timeit(1)
        while (spent := timer.timeit(self._calls)) < _SAMPLE_SECONDS:
            self._calls = max(2 * self._calls, int(self._calls * _SAMPLE_SECONDS / (spent + 1e-9)))

    def measure(self, seconds):
        """Return the median over samples of the seconds of one call; the first is not counted."""
        self._timer.timeit(self._calls)  # brings the weights back into the caches
        samples, end = [], timeit.default_timer() + seconds
        while len(samples) < _LEAST_SAMPLES or timeit.default_timer() < end:
            samples.append(self._timer.timeit(self._calls) / self._calls)
        return statistics.median(samples)

    def tail(self, calls, seconds, gap=0.0):
        """Time ``calls`` more calls one by one, or those of some seconds, each after a gap; describe all so far.

        What the clock itself takes, measured beside them, is subtracted.

        Returns
        -------
        dict
            ``calls`` and, in seconds, ``p50``, ``p99`` and ``p99.9``, None where the calls are too few for one.
        """
        gathered = self._gathered.setdefault(gap, [])
        empty = statistics.median(_compiled("pass", {})(101, _nothing, math.inf))
        wait = (lambda: time.sleep(gap)) if gap else _nothing
        self._single(1, _nothing, math.inf)  # the first one pays for what others left in the caches
        end = time.perf_counter_ns() + seconds * 1e9
        gathered += [max(0, spent - empty) for spent in self._single(calls, wait, end)]
        found = {f"p{percent}": percentile(gathered, percent) for percent in (50, 99, 99.9)}
        seconds = {name: None if value is None else value * 1e-9 for name, value in found.items()}
        return {"calls": len(gathered), **seconds}
