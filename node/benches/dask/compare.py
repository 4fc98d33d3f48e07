#!/usr/bin/env python3
"""`remote-network bench workflow` beside the same graphs on Dask distributed, in turns in one run.

Needs Python 3.10 or later and, for the first time, PyPI: the packages of requirements.txt are installed into
an environment of their own. docs/BENCHMARKS.md says what is measured and what differs. The last line is one
JSON object.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import graph

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"


def main():
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[2] / "target"))
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--binary", type=Path, default=target / "release/remote-network", help="our side")
    add("--shape", choices=graph.SHAPES, action="append", help="may be repeated; all by default")
    add("--tasks", type=positive, default=10_000)
    add("--rounds", type=positive, default=3)
    add("--running", type=positive, default=4, help="tasks at once at our executor, threads of Dask's worker")
    add("--dir", type=Path, default=Path(tempfile.gettempdir()), help="it decides which disk is used")
    add("--venv", type=Path, default=target / "dask-venv", help="where Dask is installed, once")
    options = options.parse_args()

    binary = options.binary.resolve()
    if not binary.exists():
        sys.exit(f"{binary} is not there: cargo build --release, or --binary")
    python = installed(options.venv.resolve())
    shapes = {}
    for shape in options.shape or graph.SHAPES:
        asked = [f"--{name}={vars(options)[name]}" for name in ("tasks", "running", "dir")]
        ours_ms, dask_ms = [], []
        for n in range(options.rounds):
            ours = last_line([binary, "bench", "workflow", f"--shape={shape}", *asked])
            dask = last_line([python, HERE / "theirs.py", f"--shape={shape}", *asked])
            # Either has compared its results with those worked out in advance, and Dask's side its tasks.
            if ours["committed"] != options.tasks:
                sys.exit(f"{ours['committed']} tasks of {shape} are committed, not {options.tasks}")
            ours_ms.append(ours["elapsed_ms"])
            dask_ms.append(dask["elapsed_ms"])
            turn = f"{shape} {n + 1}/{options.rounds}"
            print(f"{turn}: {ours_ms[-1]:.0f} and {dask_ms[-1]:.0f} ms", file=sys.stderr)
        shapes[shape] = figures(ours_ms, dask_ms)
    print(table(shapes))
    about = {"bench": "dask", "tasks": options.tasks, "running": options.running, "rounds": options.rounds}
    versions = {package: dask[package] for package in ("dask", "distributed", "python")}
    print(json.dumps({**about, **versions, "shapes": shapes}))


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def installed(venv):
    """The interpreter that has exactly what requirements.txt says."""
    python, stamp = venv / "bin/python3", venv / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    if subprocess.run([sys.executable, "-m", "venv", "--clear", venv]).returncode != 0:
        sys.exit("no virtual environment can be made (see above; Debian has it in python3-venv)")
    # Wheels only: what a source package would fetch to build itself is pinned by nobody.
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    pip = subprocess.run([*pip, "--require-hashes", "-r", REQUIREMENTS], stderr=subprocess.PIPE, text=True)
    if pip.returncode != 0:
        sys.stderr.write(pip.stderr)
        # Other bytes than the pinned ones are no matter of the network.
        if os.environ.get("CI") or "DO NOT MATCH THE HASHES" in pip.stderr:
            sys.exit("Dask cannot be installed")
        print("SKIPPED dask: it cannot be installed on this machine (see above; is PyPI within reach?)")
        sys.exit(0)
    stamp.write_text(wanted)
    return python


def last_line(command):
    """What a benchmark says in the end; its failure is ours."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return json.loads(done.stdout.splitlines()[-1])


def figures(ours, dask):
    # The median of the turns' ratios, as in all benchmarks here: both sides of a turn had the same machine.
    ratios = [o / d for o, d in zip(ours, dask)]
    return {
        "ours_ms": round(statistics.median(ours), 1),
        "dask_ms": round(statistics.median(dask), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ours_ms_all": [round(o, 1) for o in ours],
        "dask_ms_all": [round(d, 1) for d in dask],
        "ratio_all": [round(r, 3) for r in ratios],
    }


def table(shapes):
    cell = lambda middle, every, form: f"{middle:{form}} ({min(every):{form}}–{max(every):{form}})"
    columns = {"ours_ms": ".0f", "dask_ms": ".0f", "ratio": ".2f"}
    lines = ["| shape | ours, ms | Dask, ms | ours / Dask |", "|---|---|---|---|"]
    for shape, found in shapes.items():
        cells = [cell(found[name], found[f"{name}_all"], form) for name, form in columns.items()]
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
