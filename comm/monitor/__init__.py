"""The fault monitor: one watcher a node reads what its ranks do in MPI, and says who is slow, stuck or dead.

Nothing here is loaded in a rank unless monitoring is asked for, and nothing in the watcher loads MPI.
"""
