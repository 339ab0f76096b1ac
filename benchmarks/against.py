"""Builds another commit of this repository, once, for ``run.py --against``."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cache_folder():
    """Where builds are kept: outside of the tree, so that no search or check of it finds them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cylstm-benchmarks"


def commit_of(revision, root=ROOT):
    """The full hash of a revision; a ValueError if it is none."""
    asked = ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"--against {revision} is no commit of {root}")
    return done.stdout.strip()


def build(revision, root=ROOT, folder=None):
    """Return the folder that holds cylstm as it was at a revision, built for this Python.

    A build that is there already is taken. A new one is made from ``git archive`` in a folder beside it, which needs
    no entry in the repository as a worktree does, and gets its name when all of it is done.
    """
    commit = commit_of(revision, root)
    built = (folder or cache_folder()) / f"{commit}-{sysconfig.get_config_var('SOABI') or sys.version_info[:2]}"
    if built.is_dir():
        return built
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as temporary:
        tree = Path(temporary) / "tree"
        archive = Path(temporary) / "tree.tar"
        asked = ["git", "-C", str(root), "archive", "--output", str(archive), commit]
        subprocess.run(asked, check=True)
        with tarfile.open(archive) as file:
            file.extractall(tree, filter="data")
        print(f"building {commit[:9]} for --against", file=sys.stderr, flush=True)
        asked = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = subprocess.run(asked, cwd=tree, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{commit[:9]} does not build: {done.stderr.strip()[-2000:]}")
        shutil.rmtree(tree / "build", ignore_errors=True)
        tree.rename(built)
    return built
