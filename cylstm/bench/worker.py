"""One contender in a process of its own: prepares, checks and times what the parent asks for.

Requests and answers are lines of JSON. Between an answer and the next request it is stopped, so that the others have
the cores to themselves.
"""

import gc
import json
import os
import sys
import timeit
import traceback
from importlib.util import find_spec

from .cases import CHECK_CALLS, make_data, parse
from .checking import compare
from .contenders import OURS_OR_BEFORE, Unsupported, called
from .machine import describe_build, pin, version
from .timing import Clock


def main():
    """Serve the contender that the command line names, on the cores that it names."""
    name, cores, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    # What a library prints goes to stderr: stdout is the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(*values):
        print(json.dumps(values), file=answers, flush=True)

    pin(cores)
    contender = called(name)
    missing = [package for package in contender.requires if not find_spec(package)]
    if missing:
        return answer("absent", f"not installed: {', '.join(missing)}")
    try:
        prepare = contender.load()
        ours = name in OURS_OR_BEFORE
        versions = {} if ours else {package: version(package) for package in contender.requires}
        build = describe_build(folder) if ours else None
    except Exception as error:
        return answer("failed", f"{type(error).__name__}: {error}")
    answer("ready", {"versions": versions, "build": build})
    serve(prepare, answer)


def serve(prepare, answer):
    """Answer requests until stdin ends."""
    clock = None
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            if what == "prepare":
                clock = None
                gc.collect()
                status, detail, clock = _prepare(prepare, *arguments)
                answer(status, detail)
            else:
                gc.disable()  # as timeit does
                answer("done", getattr(clock, what)(*arguments))
        except Exception:
            answer("failed", traceback.format_exc(limit=-3))
        finally:
            gc.enable()


def _prepare(prepare, name, reference_file):
    import numpy as np

    case = parse(name)
    try:
        job = prepare(case, make_data(case))
    except Unsupported as reason:
        return "unsupported", str(reason), None
    timer = timeit.Timer(job.statement, globals=job.names)
    timer.timeit(CHECK_CALLS[case.kind] - 1)
    with np.load(reference_file) as wanted:
        error, complaint = compare(case, job.check(), wanted)
    if complaint:
        return "wrong", complaint, None
    return "ready", error, Clock(timer, job)
