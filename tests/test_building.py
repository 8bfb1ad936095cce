"""The tools that the build of the interposer asks pip for, and those that it uses, by those on the PATH."""

import sys
import sysconfig
from pathlib import Path

import pytest

import native_tools
from tests import launch

WORKS = "exit 0"
FAILS = "exit 1"


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The only folder on the PATH: an empty one, on a machine that has Python's headers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    header = tmp_path / "include" / "Python.h"
    header.parent.mkdir()
    header.touch()
    places = {"include": str(header.parent), "scripts": str(tmp_path / "scripts")}
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", places.__getitem__)
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "linux-x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    return folder


def program(path, text=WORKS):
    """Write a shell script that stands in for a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def cmake(path, version):
    program(path / "cmake", f"echo cmake version {version}")


def test_a_machine_without_tools_gets_all_of_them_from_pip(path):
    assert native_tools.requirements() == ["cmake>=3.20", "ninja", "ziglang"]


def test_a_machine_with_tools_gets_none(path):
    cmake(path, "3.20.0")
    program(path / "make")
    program(path / "gcc")
    assert native_tools.requirements() == []


@pytest.mark.parametrize(("version", "wanted"), [("3.19.8", True), ("3.20.2", False), ("4.1.0", False)])
def test_cmake_must_be_new_enough(path, version, wanted):
    cmake(path, version)
    assert ("cmake>=3.20" in native_tools.requirements()) == wanted


def test_a_program_that_does_not_start_is_none(path):
    """Such as pip's cmake of an environment that is hidden while pip builds."""
    program(path / "cmake", FAILS)
    program(path / "ninja", FAILS)
    assert native_tools.requirements() == ["cmake>=3.20", "ninja", "ziglang"]


def test_programs_beside_python_are_found_in_an_inactive_environment(path):
    cmake(path.parent / "scripts", "3.31.0")
    program(path.parent / "scripts" / "ninja")
    assert native_tools.requirements() == ["ziglang"]


@pytest.mark.parametrize("name", ["cc", "gcc", "clang"])
def test_any_compiler_that_works_will_do(path, name):
    for other in ("cc", "gcc", "clang"):
        program(path / other, WORKS if other == name else FAILS)
    assert native_tools.find_compiler() == name
    assert "ziglang" not in native_tools.requirements()


def test_a_compiler_that_does_not_work_is_replaced(path):
    program(path / "cc", FAILS)
    assert "ziglang" in native_tools.requirements()


def test_the_compiler_that_the_user_names_is_the_only_one(path, monkeypatch):
    program(path / "gcc")
    program(path / "icx", '[ "$1" = -m64 ]')
    monkeypatch.setenv("CC", "icx -m64")
    assert native_tools.find_compiler() == "icx -m64"
    monkeypatch.setenv("CC", "nothing")
    assert native_tools.find_compiler() is None
    assert "ziglang" not in native_tools.requirements()


def test_ninja_is_preferred_to_make(path):
    program(path / "make")
    assert native_tools.find_make() == ("Unix Makefiles", str(path / "make"))
    program(path / "ninja")
    assert native_tools.find_make() == ("Ninja", str(path / "ninja"))


@pytest.mark.parametrize(
    ("platform", "libc", "target"),
    [
        ("linux-x86_64", "glibc", "x86_64-linux-gnu.2.17"),
        ("linux-aarch64", "glibc", "aarch64-linux-gnu.2.17"),
        ("linux-x86_64", "", None),
        ("linux-ppc64le", "glibc", None),
    ],
)
def test_zig_is_for_machines_that_it_has_wheels_for(path, monkeypatch, platform, libc, target):
    monkeypatch.setattr(sysconfig, "get_platform", lambda: platform)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    assert native_tools.zig_target() == target
    assert ("ziglang" in native_tools.requirements()) == (target is not None)


def test_nothing_is_downloaded_where_nothing_can_be_built(path, monkeypatch):
    Path(sysconfig.get_path("include"), "Python.h").unlink()
    assert native_tools.requirements() == []
    with pytest.raises(native_tools.CannotBuildError, match=r"Python\.h"):
        native_tools.check_python()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert native_tools.requirements() == []
    with pytest.raises(native_tools.CannotBuildError, match="darwin"):
        native_tools.check_python()


def test_what_is_missing_is_named(path, monkeypatch):
    monkeypatch.setattr(native_tools, "make_zig_compiler", lambda folder: None)
    for missing, install in [
        (r"CMake 3\.20", lambda: cmake(path, "3.20.1")),
        ("ninja or make", lambda: program(path / "make")),
        ("compiler", lambda: program(path / "cc")),
    ]:
        with pytest.raises(native_tools.CannotBuildError, match=missing):
            native_tools.find_tools(path)
        install()
    tools = native_tools.find_tools(path)
    assert tools == native_tools.Tools(str(path / "cmake"), "Unix Makefiles", str(path / "make"), "cc")


def test_a_compiler_that_the_user_names_in_vain_is_named(path, monkeypatch):
    cmake(path, "3.20.1")
    program(path / "ninja")
    monkeypatch.setenv("CC", "nothing")
    with pytest.raises(native_tools.CannotBuildError, match="CC=nothing"):
        native_tools.find_tools(path)


def test_the_script_for_zig_hands_on_its_arguments(path, monkeypatch):
    """In a folder, and by a Python, whose names have a blank."""
    folder = path.parent / "build folder"
    python = folder / "python"
    program(python, 'printf "%s\\n" "$@" "$ZIG_LOCAL_CACHE_DIR"')
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    script = native_tools.make_zig_compiler(folder)
    assert script
    lines = (native_tools.output([script, "-c", "a b.c"]) or "").splitlines()
    assert lines[:5] == ["-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17"]
    assert lines[-3:] == ["-c", "a b.c", str(folder / "zig-cache")]


def test_a_source_distribution_has_what_the_build_reads():
    manifest = (launch.ROOT / "MANIFEST.in").read_text()
    for entry in ("graft cmake", "include CMakeLists.txt", "recursive-include comm/interposer *.c *.h"):
        assert entry in manifest.splitlines()
