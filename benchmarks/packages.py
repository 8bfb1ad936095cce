"""Packages that only some benchmarks need, imported when these run: ``--help`` works without them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import click


def require(name: str, command: str) -> ModuleType:
    """Import a package, or end with one line that says which one is missing and how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        message = f"this benchmark needs {name}, which is missing ({error}): {command}"
        raise click.ClickException(message) from error


def require_cupy() -> ModuleType:
    """Import CuPy."""
    return require("cupy", "pip install '.[cuda12]', or '.[cuda13]'")


def require_torch() -> ModuleType:
    """Import PyTorch."""
    return require("torch", "pip install '.[pytorch]'")
