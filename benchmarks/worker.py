"""One contender in a process of its own: prepares, checks and times what the parent asks for.

Between requests it waits on its pipe, so that the others have the core to themselves.
"""

import gc
import sys
import timeit
import traceback

from shapes import CHECK_CALLS, make_data

# A sample is a loop of calls at least this long: far above the clock's own cost.
_SAMPLE_SECONDS = 0.5e-3
_LEAST_SAMPLES = 3


def serve(pipe, contender, folder=None):
    """Answer requests until None comes; ``folder`` is searched first for the library."""
    if folder:
        sys.path.insert(0, folder)
    try:
        prepare = contender.load()
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        return
    pipe.send(("ready", None))
    clock = None
    while (request := pipe.recv()) is not None:
        what, *arguments = request
        try:
            if what == "prepare":
                clock = None
                gc.collect()
                answer, clock = _prepare(prepare, *arguments)
                pipe.send(answer)
            else:
                pipe.send(("time", clock.measure(*arguments)))
        except Exception:
            pipe.send(("failed", traceback.format_exc(limit=-3)))


def _prepare(prepare, case, reference_file):
    import numpy as np
    from checking import compare
    from contenders import Unsupported

    try:
        job = prepare(case, make_data(case))
    except Unsupported as reason:
        return ("unsupported", str(reason)), None
    timer = timeit.Timer(job.statement, globals=job.names)
    timer.timeit(CHECK_CALLS[case.kind] - 1)
    with np.load(reference_file) as reference:
        error, complaint = compare(case.kind, job.check(), reference)
    if complaint:
        return ("wrong", complaint), None
    return ("ready", error), Clock(timer, job)


class Clock:
    """Times one statement: ``timeit`` compiles it into the loop and holds the collector off."""

    def __init__(self, timer, job):
        self._timer = timer
        self._job = job  # and with it all that the statement's library does not own
        self._calls = 1
        timer.timeit(1)
        while (spent := timer.timeit(self._calls)) < _SAMPLE_SECONDS:
            self._calls = max(2 * self._calls, int(self._calls * _SAMPLE_SECONDS / (spent + 1e-9)))

    def measure(self, seconds):
        """Return the median over samples of the seconds of one call; the first is not counted."""
        import statistics

        self._timer.timeit(self._calls)  # brings the weights back into the caches
        samples, end = [], timeit.default_timer() + seconds
        while len(samples) < _LEAST_SAMPLES or timeit.default_timer() < end:
            samples.append(self._timer.timeit(self._calls) / self._calls)
        return statistics.median(samples)
