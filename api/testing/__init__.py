"""For tests of programs: faults that are injected on purpose, to see what becomes of them."""
