"""The graphs and the task of `remote-network bench workflow`, once more for Dask.

What they are for is said in node/src/bench/graph.rs. `test_graph.py` and the tests over there hold both to
the same numbers.
"""

LAYER = 100
STRIDE = 7
WIDE_KEPT = 100
SHAPES = ("chain", "wide", "layered")
# Bytes that the first tasks read.
SOURCE = b"remote-network bench"


def work(argument, *inputs):
    """A task: eight bytes that depend on its number and on all it reads (FNV-1a, 64 bits)."""
    h = 0xCBF29CE484222325
    for byte in b"service\0" + argument.encode() + b"\0" + b"".join(inputs):
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h.to_bytes(8, "little")


def inputs_of(shape, tasks):
    """Which tasks each one reads, in order."""
    if shape == "chain":
        return [[n - 1] if n else [] for n in range(tasks)]
    if shape == "wide":
        return [[] for _ in range(tasks)]
    before = lambda n: n - n % LAYER - LAYER
    return [
        [before(n) + n % LAYER, before(n) + (n % LAYER + STRIDE) % LAYER] if n >= LAYER else []
        for n in range(tasks)
    ]


def kept_of(shape, tasks):
    """The tasks whose results are wanted."""
    if shape == "chain":
        return [tasks - 1]
    if shape == "wide":
        return list(range(min(tasks, WIDE_KEPT)))
    return list(range((tasks - 1) // LAYER * LAYER, tasks))


def expected(inputs):
    """What each task writes."""
    outputs = []
    for n, reads in enumerate(inputs):
        outputs.append(work(str(n), *([outputs[i] for i in reads] or [SOURCE])))
    return outputs
