"""What a library costs before its first result: seconds to import it, memory, bytes on disk."""

import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from . import machine, running
from .cases import make_data, parse
from .contenders import CONTENDERS, OURS, called

CASE = parse("step-64-128")
_PROCESSES = 3


def _resident_bytes():
    """Of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()


def _distributions(package):
    """The distribution of a package and all that it needs, without extras; those that are installed."""
    waiting, found = importlib.metadata.packages_distributions().get(package, [package]), {}
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found[name] = distribution
            needs = [need for need in distribution.requires or () if "extra ==" not in need]
            waiting = waiting + [re.match(r"[\w.-]+", need)[0] for need in needs]
    return found


def installed_bytes(package):
    """Bytes on disk of a package's distribution and of all that it needs; None if it was not installed by a wheel."""
    files = [file.locate() for d in _distributions(package).values() for file in d.files or ()]
    return sum(Path(file).stat().st_size for file in {*files} if Path(file).is_file()) or None


def main():
    """Print, as JSON, what the contender costs that the command line names."""
    contender = called(sys.argv[1])
    start = time.perf_counter()
    import_module(contender.requires[0])
    found = {"import_seconds": time.perf_counter() - start, "resident_after_import": _resident_bytes()}
    job = contender.load()(CASE, make_data(CASE))
    job.check()
    found |= {"resident_after_step": _resident_bytes(), "installed_bytes": installed_bytes(contender.requires[0])}
    print(json.dumps(found))


def measure(plan, names):
    """Return {library: what :func:`main` prints}, the median over fresh processes, of one thread each.

    Parameters
    ----------
    names : iterable of str
        Contenders that are there; of a library the first one that can step stands for it.
    """
    first = {}
    for contender in CONTENDERS:
        if contender.name in names and contender.runs(CASE):
            first.setdefault(contender.package, contender)
    found = {}
    for library, contender in first.items():
        environment, _ = machine.environment(1)
        if library == OURS:
            environment["PYTHONPATH"] = str(machine.ROOT)
        asked = running.command("footprint", plan.pythons.get(library, sys.executable), contender.name)
        samples = []
        for _ in range(_PROCESSES):
            done = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                running.say(f"footprint of {library} not measured: {done.stderr.strip()[-300:]}")
                break
            samples.append(json.loads(done.stdout.splitlines()[-1]))
        else:
            found[library] = {
                key: None if samples[0][key] is None else statistics.median(sample[key] for sample in samples)
                for key in samples[0]
            }
    return found
