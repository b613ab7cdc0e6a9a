"""coord-server and etcd side by side: the same unmodified clients, one run, ratios.

    python -m benchmarks                     every row, three rounds
    python -m benchmarks --quick             one short round
    python -m benchmarks --only put,lock     rows whose name contains one of the words

Both servers run at the same time on loopback with their data on the same file system; rows alternate between them
(A B A B), so that a noisy neighbour hits both.
After each row the store's revision must have moved by exactly the number of writes that the client counted.
The table's ratio is ours divided by etcd's, the median over the rounds: above 1 we are faster.
Absolute figures are printed for orientation only; they are worth nothing without their neighbours.
"""
