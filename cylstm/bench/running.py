"""Check every contender against the reference, then time them side by side.

Each contender lives in one fresh process; all are held to the same cores. Per case they take turns: in every round
each times a block of calls while the processes of the others are stopped, so a round's times are taken within a second
of each other and their ratio outlives the machine's moods. (That they wait on their pipes is not enough: threads of
OpenMP and of ONNX Runtime spin on for up to 0.2 s when their work is done, on the core that the next one needs.)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from . import machine
from .cases import make_data
from .checking import expected
from .contenders import BEFORE, CONTENDERS, OURS, OURS_OR_BEFORE, Contender

HERE = Path(__file__).resolve().parent

# Loads this package from its folder, under a name that no build of cylstm has, and runs one of its modules.
_BOOT = """
import sys
from importlib import import_module, util
spec = util.spec_from_file_location("cylstm_bench", {init!r}, submodule_search_locations=[{folder!r}])
sys.modules["cylstm_bench"] = util.module_from_spec(spec)
import_module("cylstm_bench.{module}").main()
"""
_PATIENCE_SECONDS = 900  # with one answer


def say(text):
    print(text, file=sys.stderr, flush=True)


@dataclass
class Plan:
    """What to run, and how."""

    cases: list
    peers: list | None = None  # libraries or contenders; None: all
    rounds: int = 15
    block_seconds: float = 0.05
    threads: int = 1
    last_core: int | None = None
    before: Path | None = None  # a folder that holds another build of cylstm
    pythons: dict = field(default_factory=dict)  # {library: the Python that has it}
    tail_calls: int = 2000  # steps of a round that are timed one by one
    tail_seconds: float = 0.25  # at most
    gap_calls: int = 0  # the same with a gap before each
    gap_seconds: float = 0.01


def command(module, python, *arguments):
    """The command that runs a module of this package in a Python, which may have no cylstm."""
    boot = _BOOT.format(init=str(HERE / "__init__.py"), folder=str(HERE), module=module)
    # -P: not what lies in the directory that this was started from.
    return [str(python), "-P", "-c", boot, *map(str, arguments)]


class Process:
    """A contender's process, and what it answered last."""

    def __init__(self, contender, plan, cores):
        self.contender = contender
        folder = plan.before.resolve() if contender.name == BEFORE else machine.ROOT
        self._environment, _ = machine.environment(plan.threads)
        if contender.name in OURS_OR_BEFORE:
            self._environment["PYTHONPATH"] = str(folder)
        python = plan.pythons.get(contender.package, sys.executable)
        self._command = command("worker", python, contender.name, json.dumps(cores), folder)
        self._start()

    def _start(self):
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (stop closes it)
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints,
            env=self._environment, text=True,
        )  # fmt: skip

    def revive(self):
        """Start a new process where the last one is dead: one case that a library dies of leaves it the others."""
        if self._process.poll() is not None:
            self.stop()
            self._start()
            self.ask()

    def ask(self, *request):
        """Send a request, if there is one, and return the answer; a process that dies or hangs has failed.

        The process is stopped from its answer to the next request, where the system can.
        """
        self._signal("SIGCONT")
        with contextlib.suppress(OSError):
            if request:
                print(json.dumps(request), file=self._process.stdin, flush=True)
        patience = threading.Timer(_PATIENCE_SECONDS, self._process.kill)
        patience.start()
        try:
            line = self._process.stdout.readline()
        finally:
            patience.cancel()
        if line.endswith("\n"):
            self._signal("SIGSTOP")
            return json.loads(line)
        self._complaints.seek(0)
        last = self._complaints.read().decode(errors="replace").strip()[-300:]
        return "failed", f"its process ended with exit code {self._process.wait(5)}: {last}"

    def _signal(self, name):
        if hasattr(signal, name):  # not on Windows
            self._process.send_signal(getattr(signal, name))

    def stop(self):
        self._signal("SIGCONT")
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._complaints.close()


def chosen_contenders(plan):
    """Return the contenders that a plan asks for; a ValueError if it asks for one that there is not."""
    libraries = sorted({contender.package for contender in CONTENDERS} - {OURS})
    for peer in plan.peers or ():
        if peer not in libraries and peer not in [contender.name for contender in CONTENDERS]:
            raise ValueError(f"no peer {peer!r}, expected some of {', '.join(libraries)}")
    wanted = [c for c in CONTENDERS if plan.peers is None or {c.name, c.package} & {OURS, *plan.peers}]
    if plan.before:
        wanted.append(Contender(BEFORE, "ours", "prepare", ("cylstm",), like_ours=True))
    return [contender for contender in wanted if any(contender.runs(case, plan.threads) for case in plan.cases)]


def check(plan):
    """Raise, before anything is measured, the ValueError that a plan is for."""
    machine.choose_cores(plan.threads, plan.last_core)
    chosen_contenders(plan)


def start(plan, cores):
    """Start what is installed and asked for.

    Returns
    -------
    processes : list of Process
    found : dict
        "versions" by package, "builds" by contender, and why others are "absent" or "failed".

    Raises
    ------
    ImportError
        If it is ours that can not be measured, or the build that it is paired with.
    """
    processes, found = [], {"versions": {}, "builds": {}, "absent": {}, "failed": {}}
    try:
        for contender in chosen_contenders(plan):
            processes.append(Process(contender, plan, cores))
            answer, detail = processes[-1].ask()
            if answer == "ready":
                found["versions"] |= detail["versions"]
                if detail["build"]:
                    found["builds"][contender.name] = detail["build"]
                continue
            if contender.name in OURS_OR_BEFORE:
                raise ImportError(f"{contender.name} can not be measured: {detail}")
            found[answer][contender.name] = detail
            processes.pop().stop()
            say(f"{answer}: {contender.name}: {detail}")
    except BaseException:
        _stop(processes)
        raise
    return processes, found


def _stop(processes):
    for process in processes:
        process.stop()


def run_case(case, processes, reference_file, plan):
    """Return {contender: {"status", "error" or "detail", "seconds": one per round, "single", "idle"}}."""
    results, ready = {}, []
    for process in processes:
        if not process.contender.runs(case, plan.threads):
            continue
        process.revive()
        name = process.contender.name
        status, detail = process.ask("prepare", case.name, reference_file)
        if status == "ready":
            results[name] = {"status": "right", "error": detail, "seconds": []}
            ready.append(process)
            continue
        results[name] = {"status": status, "detail": detail}
        if status != "unsupported":
            say(f"{case.name}: {name} {status.upper()}: {detail}")
    for turn in range(plan.rounds):
        first = turn % max(1, len(ready))
        for process in ready[first:] + ready[:first]:  # nobody always follows the same neighbour
            _take_turn(case, process, results[process.contender.name], plan)
    return results


def _take_turn(case, process, result, plan):
    if result["status"] != "right":
        return
    requests = {"seconds": ("measure", plan.block_seconds)}
    if case.kind == "step":
        requests["single"] = ("tail", plan.tail_calls, plan.tail_seconds)
        if plan.gap_calls:
            requests["idle"] = ("tail", plan.gap_calls, 2 * plan.gap_calls * plan.gap_seconds, plan.gap_seconds)
    for key, request in requests.items():
        status, detail = process.ask(*request)
        if status != "done":
            result.update(status="failed", detail=detail)
            say(f"{case.name}: {process.contender.name} FAILED: {detail}")
            return
        if key == "seconds":
            result[key].append(detail)
        else:
            result[key] = detail  # of all rounds so far


def run(plan, report=None):
    """Run a plan's cases with one number of threads; return what was found, ready for JSON.

    ``report``, if given, is called with all that was found so far when a case is done.
    """
    import numpy as np

    cores = machine.choose_cores(plan.threads, plan.last_core)
    _, removed = machine.environment(plan.threads)
    processes, found = start(plan, cores)
    found |= {"threads": plan.threads, "cores": cores, "unset": removed, "held": machine.held(), "rounds": plan.rounds,
              "block_seconds": plan.block_seconds, "cases": []}  # fmt: skip
    try:
        with tempfile.TemporaryDirectory() as folder:
            reference_file = os.path.join(folder, "reference.npz")
            for case in plan.cases:
                np.savez(reference_file, **expected(case, make_data(case)))
                results = run_case(case, processes, reference_file, plan)
                found["cases"].append({"case": case.name, "kind": case.kind, "flops": case.flops, "results": results})
                if report:
                    report(found)
    finally:
        _stop(processes)
    return found


def limits(plan):
    """What one core can do, measured in a process of its own on the core that one thread would have."""
    cores = machine.choose_cores(1, plan.last_core)
    environment, _ = machine.environment(1)
    environment["PYTHONPATH"] = str(machine.ROOT)
    asked = command("limits", sys.executable, json.dumps(cores))
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        say(f"limits not measured: {done.stderr.strip()[-300:]}")
        return {}
    return json.loads(done.stdout)
