"""The tests of roundelay and what runs them: ``python -m tests``."""
