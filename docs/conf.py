"""Sphinx configuration: `pip install ".[mpich,docs]" && sphinx-build docs docs/_build`."""

from importlib import metadata

project = "roundelay"
author = "roundelay developers"
release = metadata.version("roundelay")

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"roundelay {release}"
