"""The benchmark: what it times is checked first, its arithmetic is right, and its files can be compared."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cylstm
from cylstm import __main__
from cylstm.bench import checking, command, machine, report, running, timing, worker
from cylstm.bench.cases import make_data, parse
from cylstm.bench.contenders import CONTENDERS, Job, called
from cylstm.bench.contenders import by_hand_numpy as numpy_contender
from cylstm.bench.contenders import ours as our_contender
from cylstm.bench.contenders import reference as reference_contender

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def full(monkeypatch):
    """The modules of the full benchmark, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import against
    import plots
    import published
    import scaling
    import shapes

    return SimpleNamespace(against=against, plots=plots, published=published, scaling=scaling, shapes=shapes)


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = cylstm.get_num_threads()
    yield
    cylstm.set_num_threads(threads)  # a contender sets them


def entry(case="step-3-4", **seconds):
    """What a run leaves of a case, of contenders whose results were right."""
    results = {name.replace("_", ":"): {"status": "right", "error": 0.0, "seconds": s} for name, s in seconds.items()}
    return {"case": case, "kind": parse(case).kind, "flops": parse(case).flops, "results": results}


def record(*entries, threads=1, commit="abc1234", held=None):
    run = {"threads": threads, "cores": [0], "unset": {}, "held": held or {}, "rounds": 3, "versions": {"numpy": "2"}}
    run |= {"absent": {}, "failed": {}, "builds": {"ours": {"level": "avx2"}}, "cases": list(entries)}
    rates = {"float32": 100.0, "float64": 50.0}
    limits = {"peak_gflops": rates, "gemm_gflops": rates, "read_gb_per_s": {"32": 200.0, "8192": 20.0}}
    about = {"date": "2026-01-02T03:04:05+00:00", "cpu": "A CPU(R) @ 2 GHz", "caches_kib": {}, "system": "s"}
    return {"schema": 1, **about, "python": "3", "commit": commit, "limits": limits, "runs": [run]}


def saved(path, content):
    path.write_text(json.dumps(content))
    return str(path)


# Cases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["step-1-8", "gru-seq-64-128-bi2", "seq-1x63-24-32-bi1", "batch-8x50-3-4-f64-ragged", "rnn-train-1x100-16-32-f64"],
)
def test_a_case_has_the_name_that_it_was_made_of(name):
    assert parse(name).name == name


def test_a_name_without_sizes_means_those_of_its_kind():
    assert parse("batch-32x100-3-4") == parse("batch-3-4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("step", "no case 'step', expected"),
        ("lstm-step-1-8", "no case"),
        ("seq-0x5-1-8", "no case"),
        ("step-2x1-1-8", "has 2 sequences of 1"),
        ("seq-2x9-1-8", "expected 1x1 of a step and 1xT of a seq"),
        ("seq-1-8-ragged", "ragged is of a batch alone"),
        ("step-1-8-bi1", "a step has one layer"),
    ],
)
def test_a_name_that_is_no_case_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        parse(name)


def test_every_case_of_the_full_benchmark_is_one(full):
    names = [name for group in full.shapes.GROUPS.values() for name in group]
    assert [parse(name).name for name in names] == names


def test_flops_are_those_of_the_two_products():
    assert parse("step-3-5").flops == 2 * 4 * 5 * (3 + 5)
    assert parse("gru-train-2x7-3-5").flops == 3 * 2 * 7 * 2 * 3 * 5 * (3 + 5)
    # a second layer reads both directions of the first
    assert parse("rnn-batch-2x7-3-5-bi2").flops == 2 * 7 * 2 * (2 * 5 * (3 + 5) + 2 * 5 * (10 + 5))


def test_lengths_of_a_ragged_case_go_from_a_tenth_to_all_steps():
    lengths = make_data(parse("batch-64x200-1-1-ragged")).lengths
    assert (lengths.min() >= 20, lengths.max(), len(set(lengths)) > 30) == (True, 200, True)


# Checking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["step-3-4", "gru-step-3-4-f64", "batch-3x9-3-4-ragged", "rnn-seq-1x9-3-4-bi2", "train-3-4", "gru-train-3-4-f64"],
)
@pytest.mark.parametrize("contender", [our_contender, reference_contender], ids=["ours", "reference"])
def test_what_is_timed_is_right(name, contender, tmp_path, one_thread):
    assert prepared(name, contender.prepare, tmp_path)[0] == "ready"


@pytest.mark.parametrize("name", ["step-3-4", "seq-1x9-3-4-f64", "batch-2x9-3-4"])
def test_numpy_by_hand_is_right(name, tmp_path):
    assert prepared(name, numpy_contender.prepare, tmp_path)[0] == "ready"


def prepared(name, prepare, folder):
    case = parse(name)
    np.savez(folder / "reference.npz", **checking.expected(case, make_data(case)))
    return worker._prepare(prepare, name, folder / "reference.npz")


def test_a_contender_that_forgets_its_state_is_wrong_and_not_timed(tmp_path):
    def prepare(case, data):
        return numpy_contender.prepare(parse("batch-1x1-3-4"), data)  # each call from a zero state

    status, detail, clock = prepared("step-3-4", prepare, tmp_path)
    assert (status, detail[:11], clock) == ("wrong", "y is off by", None)


def test_swapped_gates_are_wrong(tmp_path):
    def prepare(case, data):
        i, f, g, o = np.split(data.parameters["weight_hh_l0"], 4)
        data.parameters["weight_hh_l0"] = np.concatenate([f, i, g, o])
        return numpy_contender.prepare(case, data)

    assert prepared("seq-1x9-3-4", prepare, tmp_path)[0] == "wrong"


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ({}, "no y"),
        ({"y": np.zeros((1, 1, 4))}, r"y is float64 \(1, 1, 4\), expected float32 \(1, 1, 4\)"),
        ({"y": np.zeros((1, 4), np.float32)}, r"y is float32 \(1, 4\), expected"),
        ({"y": np.full((1, 1, 4), np.nan, np.float32)}, "y is off by nan"),
    ],
)
def test_a_result_of_another_kind_is_a_complaint(result, complaint):
    _, found = checking.compare(parse("step-3-4"), result, {"y": np.ones((1, 1, 4))})
    assert re.match(complaint, found)


# Timing -------------------------------------------------------------------------------------------


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed():
    values = list(range(1, 2001))[::-1]
    assert [timing.percentile(values, percent) for percent in (50, 99, 99.9)] == [1000, 1980, 1998]


def test_a_percentile_of_too_few_values_is_none():
    assert timing.percentile(range(99), 99) is None and timing.percentile(range(100), 99) == 98
    assert timing.percentile(range(999), 99.9) is None and timing.percentile(range(1000), 99.9) == 998
    assert timing.percentile([], 50) is None


def test_single_calls_are_timed_without_what_is_between_them():
    calls = []

    def call():
        calls.append(time.perf_counter())
        time.sleep(0.002)

    job = Job("call()", {"call": call}, None)
    clock = timing.Clock(SimpleNamespace(timeit=lambda number: 1.0), job)
    found = clock.tail(4, 1, gap=0.005)
    assert 0.0019 < found["p50"] < 0.0045
    assert found["calls"] == 4 and found["p99"] is None
    assert min(np.diff(calls)[-3:]) > 0.0069
    assert clock.tail(2, 1, gap=0.005)["calls"] == 6 and clock.tail(1, 1)["calls"] == 1


def test_slow_calls_are_timed_for_a_while_and_no_longer():
    clock = timing.Clock(SimpleNamespace(timeit=lambda number: 1.0), Job("sleep(0.01)", {"sleep": time.sleep}, None))
    assert 1 <= clock.tail(1000, 0.03)["calls"] <= 4


def test_a_time_is_that_of_one_call():
    import timeit

    job = Job("sleep(0.002)", {"sleep": time.sleep}, None)
    clock = timing.Clock(timeit.Timer(job.statement, globals=job.names), job)
    assert 0.0019 < clock.measure(0) < 0.01


# Tables -------------------------------------------------------------------------------------------


def test_ratios_are_paired_by_round():
    found = report.paired_ratio(entry(ours=[1.0, 2.0, 4.0], numpy=[3.0, 4.0, 4.0]), "numpy")
    assert found == (2.0, 1.5, 2.5)  # of 3, 2 and 1


def test_the_best_peer_is_neither_ours_nor_the_build_before():
    case = entry(ours=[1.0], before=[1.5], torch_layer=[3.0], torch_cell=[2.0])
    assert report.best_peer(case) == "torch:cell" == report.fastest(case, "torch")


def test_a_wrong_contender_is_said_to_be_wrong_and_has_no_time():
    case = entry(ours=[1e-6])
    case["results"]["numpy"] = {"status": "wrong", "detail": "y is off by 1"}
    text = report.medians_table([case], {})
    assert "| step-3-4 | 1 | WRONG | - | - |" in text


def test_two_files_are_compared_by_their_medians(tmp_path):
    files = [
        saved(tmp_path / "a.json", record(entry(ours=[1e-6, 2e-6, 3e-6]), entry("seq-3-4", ours=[1.0]))),
        saved(tmp_path / "b.json", record(entry(ours=[2e-6, 4e-6, 6e-6]))),
    ]
    text = command.compare(files, None)
    assert text.splitlines()[2:] == ["| step-3-4 | 1 | ours 2 | ours 4 | 2.00 (1.20-3.33) |"]


def test_two_contenders_of_a_file_are_compared_by_round(tmp_path):
    case = entry(ours=[1e-6, 2e-6, 4e-6], torch_layer=[9e-6] * 3, torch_cell=[3e-6, 4e-6, 4e-6])
    file = saved(tmp_path / "a.json", record(case))
    row = "| step-3-4 | 1 | ours 2 | torch:cell 4 | 2.00 (1.50-2.50) |"
    assert command.compare([file], ["ours", "torch"]).splitlines()[2:] == [row]
    assert row in command.compare([file], None)


@pytest.mark.parametrize(
    ("content", "contenders", "message"),
    [
        ("{", None, "a.json is not a file of this benchmark"),
        ('{"schema": 0, "runs": []}', None, "is not a file of this benchmark, expected JSON with schema 1"),
        ('{"schema": 1, "runs": []}', ["ours", "jax"], "no case has times of ours in the first and of jax"),
        ('{"schema": 1, "runs": []}', None, "a.json has times of ours alone, expected a second file or a peer"),
        ('{"schema": 1, "runs": []}', ["ours"], r"1 files and contenders \['ours'\] came"),
    ],
)
def test_what_can_not_be_compared_is_refused(content, contenders, message, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        command.compare([tmp_path / "a.json"], contenders)


# Running ------------------------------------------------------------------------------------------


def test_the_quick_benchmark_checks_times_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "limits", lambda plan: {})
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    file = tmp_path / "now.json"
    options = ["--cases", "step-3-4", "--peers", "numpy", "--rounds", "1", "--block-ms", "1", "--json", str(file)]
    assert __main__.main(["bench", *options]) == 0
    printed = capsys.readouterr().out
    assert "| step-3-4 | " in printed
    assert "unset    OPENBLAS_CORETYPE=Haswell\nheld     NUMBA_CPU_NAME=haswell\n" in printed
    run = command.read(file)["runs"][0]
    results = run["cases"][0]["results"]
    assert set(results) == {"ours", "numpy"}
    for result in results.values():
        assert (result["status"], len(result["seconds"])) == ("right", 1)
        assert 100 <= result["single"]["calls"] <= 2000
        assert 1e-8 < result["single"]["p99"] < 1
    assert run["builds"]["ours"]["openblas_coretype_variable"] == "None"  # as it was for NumPy
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


def test_a_process_that_dies_is_a_failure_that_tells_its_last_words():
    plan = running.Plan([parse("step-3-4")], pythons={"numpy": sys.executable})
    process = running.Process(SimpleNamespace(name="no such", package="numpy"), plan, None)
    status, detail = process.ask()
    process.stop()
    assert status == "failed" and "exit code 1" in detail and detail.endswith("StopIteration")


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_the_processes_of_others_are_stopped_while_one_is_timed():
    """What spins on in a thread of its own when it has answered would have the core that the next one needs."""
    case = parse("step-3-4")

    def state(process):  # T: stopped
        return Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    first, second = (running.Process(called("numpy"), running.Plan([case]), None) for _ in range(2))
    try:
        assert first.ask()[0] == "ready" and second.ask()[0] == "ready"
        deadline = time.monotonic() + 10
        while (state(first), state(second)) != ("T", "T"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert first.ask("measure", 0)[0] == "failed"  # no case was prepared: but it answers
    finally:
        for process in (first, second):
            process.stop()
    assert first._process.returncode == second._process.returncode == 0


def test_a_contender_that_died_is_started_again_for_the_next_case(tmp_path):
    case, file = parse("step-3-4"), tmp_path / "reference.npz"
    np.savez(file, **checking.expected(case, make_data(case)))
    plan = running.Plan([case], rounds=1, block_seconds=0, tail_calls=1)
    process = running.Process(called("numpy"), plan, None)
    assert process.ask()[0] == "ready"
    process._process.kill()
    process._process.wait()
    assert process.ask("measure", 0)[0] == "failed"
    results = running.run_case(case, [process], str(file), plan)
    process.stop()
    assert results["numpy"]["status"] == "right"


def test_a_contender_that_hangs_has_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(running, "_PATIENCE_SECONDS", 0.2)
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    process = running.Process(called("numpy"), running.Plan([], pythons={"numpy": sleeper}), None)
    answer = process.ask()
    process.stop()
    assert answer == ("failed", "its process ended with exit code -9: ")


def test_an_absent_package_is_said_to_be_absent(tmp_path):
    bare = tmp_path / "python"  # one without site-packages
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    process = running.Process(called("numpy"), running.Plan([], pythons={"numpy": bare}), None)
    answer = process.ask()
    process.stop()
    assert answer == ["absent", "not installed: numpy"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--peers", "pytorch"], 1, "no peer 'pytorch', expected some of jax, litert, ncnn"),
        (["--threads", "9999"], 1, "threads is 9999, expected at most one for each of the cores"),
        (["--cases", "step"], 2, "no case 'step'"),
        (["--rounds", "0"], 2, "0 came, expected at least 1"),
        (["--python", "torch"], 2, "torch came, expected LIBRARY=PATH"),
        (["--compare", "no such file"], 1, "no such file"),
    ],
)
def test_wrong_options_are_explained(options, code, message, capsys, monkeypatch):
    monkeypatch.setattr(running, "limits", lambda plan: {})
    if code == 2:
        with pytest.raises(SystemExit) as stopped:
            __main__.main(["bench", *options])
        assert stopped.value.code == 2
    else:
        assert __main__.main(["bench", *options]) == code
    assert message in capsys.readouterr().err


def test_a_build_from_elsewhere_is_not_measured_as_this_one(tmp_path):
    with pytest.raises(ImportError, match=r"cylstm came from .*, expected one in"):
        machine.describe_build(tmp_path)


def test_contenders_have_names_of_their_own():
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)


# The full benchmark -------------------------------------------------------------------------------


def test_a_slope_is_one_where_cost_is_proportional(full):
    assert full.scaling.slope([(16, 3.0), (32, 6.0), (64, 12.0)]) == 1
    assert full.scaling.slope([(16, 1.0), (32, 4.0), (64, 16.0)]) == 2


def test_the_table_of_slopes_has_each_doubling(full):
    entries = [entry(f"batch-8x{T}-64-64", ours=[time]) for T, time in ((16, 1.0), (32, 2.0), (64, 6.0))]
    assert "| ours | 2.00 | 3.00 | 1.29 |" in full.scaling.tables(record(*entries))


def test_the_bandwidth_of_a_cache_is_that_of_what_fits_it(full):
    rates = {"16": 200.0, "512": 100.0, "1024": 60.0, "8192": 50.0, "131072": 20.0}
    about = {"caches_kib": {"L1d": 32, "L2": 1024, "L3": 32768}, "limits": {"read_gb_per_s": rates}}
    assert full.plots.bandwidths(about) == {"L1d": 200.0, "L2": 100.0, "L3": 50.0, "memory": 20.0}


def test_a_commit_is_built_once_beside_this_one(full, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "setup.py").write_text("open('built', 'w').write('x')")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *arguments], cwd=tree, check=True)
    (tree / "setup.py").write_text("raise SystemExit('not this one')")
    built = full.against.build("HEAD", tree, tmp_path / "cache")
    assert (built / "built").read_text() == "x" and built.parent == tmp_path / "cache"
    (built / "built").unlink()
    assert full.against.build("HEAD", tree, tmp_path / "cache") == built and not (built / "built").exists()
    with pytest.raises(ValueError, match="--against nothing is no commit of"):
        full.against.build("nothing", tree, tmp_path / "cache")


def test_what_is_published_comes_from_the_results_file(full, tmp_path):
    pytest.importorskip("matplotlib")
    results = record(entry("step-8-16", ours=[1e-6], numpy=[3e-6]), entry("step-16-32", ours=[2e-6], numpy=[1e-6]))
    marks = full.published.BEGIN, full.published.END
    for folder in ("benchmarks/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    for page in ("README.md", "docs/performance.md"):
        (tmp_path / page).write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    elsewhere = record(entry("step-8-16", ours=[5e-6], numpy=[20e-6])) | {"cpu": "B @ 2.5GHz"}
    command.write(tmp_path / "benchmarks/results" / f"{full.published.file_name(elsewhere)}.json", elsewhere)
    full.published.publish(results, tmp_path)
    # 2 * 4 H (I + H) at 100 GFLOP/s; the weights, 4 * 4 H (I + H) bytes, at 200 GB/s
    text = (tmp_path / "docs/performance.md").read_text()
    assert "| step-8-16 | 1 | 0.0307 | 0.0307 | 3 %, reading |" in text
    assert "Another machine, B @ 2.5GHz (" in text and "| step-8-16 | 1 | 5 | 20 (numpy) | 4.00 (4.00-4.00) |" in text
    text = (tmp_path / "README.md").read_text()
    assert "| step-8-16 | 1 | 1 | 3 (numpy) | 3.00 (3.00-3.00) |" in text
    assert "| step-16-32 | 1 | 2 | 1 (numpy) | 0.50 (0.50-0.50) |" in text  # where we lose, too
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert command.read(tmp_path / "benchmarks/results/a-2-ghz-2026-01-02.json") == results
    assert command.read(tmp_path / "benchmarks/results/b-2-5ghz-2026-01-02.json") == elsewhere
    for picture in ("", "-roofline", "-ratios"):
        assert (tmp_path / f"benchmarks/results/a-2-ghz-2026-01-02{picture}.svg").stat().st_size > 1000


def test_what_is_published_may_come_from_several_files(full):
    one, two = record(entry("step-8-16", ours=[1e-6])), record(entry("step-8-16", ours=[2e-6]), threads=2)
    avx2 = record(entry("step-8-16", ours=[4e-6], torch=[8e-6]), held={"CYLSTM_ISA": "avx2"})
    avx2["footprint"] = {"ours": 1}
    whole = full.published.together([one, two, avx2])
    assert [run["threads"] for run in whole["runs"]] == [1, 2, 1] and whole["footprint"] == {"ours": 1}
    text = full.published.figures(whole, "a")
    assert "| step-8-16 | 1 | 1 | - | - |" in text and "| step-8-16 | 2 | 2 | - | - |" in text and "torch" not in text
    text = full.published.bounds(whole, "a")
    assert "Level avx2, `CYLSTM_ISA=avx2`, medians of 3 rounds:" in text
    assert "| step-8-16 | 1 | 4 | 8 (torch) | 2.00 (2.00-2.00) |" in text
    with pytest.raises(ValueError, match="of more than one commit: abc1234, def5678"):
        full.published.together([one, record(entry(ours=[1.0]), commit="def5678")])


@pytest.mark.parametrize(("commit", "readme"), [("abc with changes", True), (None, True), ("abc", False)])
def test_what_nobody_could_repeat_is_not_published(commit, readme, full, tmp_path):
    pytest.importorskip("matplotlib")
    text = f"{full.published.BEGIN}\n{full.published.END}" if readme else "no marks"
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/performance.md"):
        (tmp_path / page).write_text(text)
    with pytest.raises(ValueError, match="not published: the build is of" if readme else "has no lines"):
        full.published.publish(record(entry(ours=[1.0]), commit=commit), tmp_path)
    assert (tmp_path / "README.md").read_text() == text
