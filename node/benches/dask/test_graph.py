"""The same numbers as in the tests of node/src/bench/graph.rs.

python3 -m unittest discover -s node/benches/dask
"""

import unittest

import graph


class Graphs(unittest.TestCase):
    def test_graphs_have_the_tasks_they_should_and_read_only_what_comes_before(self):
        for shape, edges, kept in (("chain", 349, 1), ("wide", 0, 100), ("layered", 500, 50)):
            inputs = graph.inputs_of(shape, 350)
            self.assertEqual(len(inputs), 350)
            self.assertEqual(sum(map(len, inputs)), edges, shape)
            self.assertTrue(all(i < n for n, reads in enumerate(inputs) for i in reads))
            self.assertEqual(len(graph.kept_of(shape, 350)), kept, shape)
        self.assertEqual(graph.inputs_of("layered", 350)[295], [195, 102])
        for shape in graph.SHAPES:
            self.assertEqual(graph.kept_of(shape, 1), [0])

    def test_a_task_writes_what_the_guest_writes(self):
        self.assertEqual(graph.work("7", b"abc"), graph.work("7", b"ab", b"c"))
        self.assertEqual(graph.work("7", b"abc").hex(), "8d49fac021093fa5")

    def test_every_output_depends_on_what_is_read(self):
        for shape in graph.SHAPES:
            outputs = graph.expected(graph.inputs_of(shape, 350))
            self.assertEqual(len(set(outputs)), 350, shape)


if __name__ == "__main__":
    unittest.main()
