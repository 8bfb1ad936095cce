"""Programs that run as jobs of their own, under roundelay, without knowing of it."""

import textwrap

from tests.test_examples import BOTH_WAYS, run_well


def job(program: str, ranks: int = 2, **environment: str) -> list[str]:
    """Run a program that knows nothing of roundelay, under it; give what it prints, in lines."""
    begin = "import numpy as np\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\n"
    text = begin + textwrap.dedent(program)
    output: str = run_well(*BOTH_WAYS[0], "-c", text, ranks=ranks, **environment)
    return output.split("\n")[:-1]
