"""Sphinx configuration: `pip install ".[mpich,docs]" && sphinx-build -W docs docs/_build`."""

from importlib import metadata
from importlib.util import find_spec

project = "roundelay"
author = "roundelay developers"
release = metadata.version("roundelay")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# Only roundelay.pytorch needs torch, and its docstrings do not.
autodoc_mock_imports = [] if find_spec("torch") else ["torch"]
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"roundelay {release}"
