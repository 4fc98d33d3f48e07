"""One run of a graph by Dask distributed: scheduler, worker and this client, each a process, over TCP.

`compare.py` starts it with an interpreter that has the packages of requirements.txt. The last line is one
JSON object.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import dask
import distributed
from distributed import Client, wait

import graph

# What does not start or stop within this does not.
PATIENCE_S = 60
# No run takes so long: one that does has got stuck.
RUN_S = 3600


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--shape", choices=graph.SHAPES, required=True)
    options.add_argument("--tasks", type=int, required=True)
    options.add_argument("--running", type=int, required=True)
    options.add_argument("--dir", type=Path, required=True)
    options = options.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="dask-") as root:
        with Cluster(Path(root), options.running) as address, Client(address, timeout=PATIENCE_S) as client:
            client.wait_for_workers(1, timeout=PATIENCE_S)
            figures = measure(client, options)
    print(json.dumps(figures))


class Cluster:
    """Scheduler and worker by their own command lines, with their defaults; it is entered as an address."""

    def __init__(self, root, threads):
        self.root, self.threads, self.started = root, threads, []

    def __enter__(self):
        try:
            file = self.root / "scheduler.json"
            # Ports of the system's choice, for several may run at once.
            local = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
            self.start("dask_scheduler", ["--port", "0", "--scheduler-file", str(file), *local])
            deadline = time.monotonic() + PATIENCE_S
            while not (address := address_in(file)):
                if time.monotonic() > deadline or self.started[0].poll() is not None:
                    raise SystemExit("Dask's scheduler does not start")
                time.sleep(0.05)
            self.start("dask_worker", [address, "--nworkers", "1", "--nthreads", str(self.threads), *local])
            return address
        except BaseException:
            self.__exit__(True)
            raise

    def start(self, module, arguments):
        # The task is a function of a module that is there already, as the guest is at our executor.
        here = {"PYTHONPATH": str(Path(__file__).parent), "DASK_TEMPORARY_DIRECTORY": str(self.root)}
        environment = {**os.environ, **here}
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        with open(self.root / f"{module}.log", "wb") as log:
            self.started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def __exit__(self, *failure):
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if any(failure):
            for log in self.root.glob("*.log"):
                sys.stderr.write(f"--- {log.name}\n{log.read_text()[-4000:]}")


def address_in(file):
    """What the scheduler's file says, once it is whole."""
    try:
        return json.loads(file.read_text())["address"]
    except (OSError, ValueError):
        return None


def measure(client, options):
    # As on our side the source is there before, and so is all that is done at first use only.
    source = client.scatter(graph.SOURCE)
    run(client, source, "wide", options.running)
    elapsed = run(client, source, options.shape, options.tasks)
    return {
        "elapsed_ms": elapsed * 1000,
        "dask": dask.__version__,
        "distributed": distributed.__version__,
        "python": platform.python_version(),
    }


def run(client, source, shape, tasks):
    """Seconds from the graph to the results at the client."""
    inputs, kept = graph.inputs_of(shape, tasks), graph.kept_of(shape, tasks)
    read = {i for reads in inputs for i in reads}
    # Dask leaves out what nobody wants, so all that no task reads has to be wanted, not only what is kept.
    ends = [n for n in range(tasks) if n not in read]
    expected = graph.expected(inputs)
    # A name of its own, for Dask does not compute again what it has by that name. By "work" it knows, as in
    # any real use, that these tasks are like those before.
    name = f"work-{uuid.uuid4().hex}"
    executed = client.run_on_scheduler(executed_so_far)

    begun = time.perf_counter()
    dsk = {
        (name, n): (graph.work, str(n), *([(name, i) for i in reads] or [source]))
        for n, reads in enumerate(inputs)
    }
    futures = dict(zip(ends, client.get(dsk, [(name, n) for n in ends], sync=False)))
    wait(list(futures.values()), timeout=RUN_S)
    results = client.gather([futures[n] for n in kept])
    elapsed = time.perf_counter() - begun

    failed = [n for n, future in futures.items() if future.status != "finished"]
    if failed or results != [expected[n] for n in kept]:
        raise SystemExit(f"Dask's results of {shape} are wrong")
    executed = client.run_on_scheduler(executed_so_far) - executed
    if executed != tasks:
        raise SystemExit(f"Dask has executed {executed} tasks of {shape}, not {tasks}")
    return elapsed


def executed_so_far(dask_scheduler):
    """Results that have come into being at workers: fewer than tasks if some were fused or left out."""
    prefix = dask_scheduler.task_prefixes.get("work")
    return 0 if prefix is None else prefix.state_counts["memory"]


if __name__ == "__main__":
    main()
