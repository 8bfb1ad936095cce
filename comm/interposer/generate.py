"""Write `functions.h` and `wrappers.c` from the table of functions: ``python generate.py FOLDER``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import table

_BUFFER = re.compile(
    r"(?P<side>[SRB])(?P<kind>[VW]?)(?P<keeps>!?)(?P<shared>=?)"
    r"(?:\*(?P<blocks>\w+))?(?P<root>@root)?:(?P<name>\w+)"
)


@dataclass(frozen=True)
class Buffer:
    """A buffer argument and what belongs to it."""

    name: str
    side: str
    kind: str
    keeps: bool
    shared: bool
    blocks: str
    root: bool

    def parameters(self, count: str, displacement: str) -> list[tuple[str, str]]:
        """Types and names of the arguments in C."""
        const = "const " if self.side == "S" else ""
        begin = [(f"{const}void *", self.name)]
        if self.shared:
            return begin
        if not self.kind:
            return [*begin, (f"{count} ", f"{self.name}_count"), ("MPI_Datatype ", f"{self.name}_type")]
        arrays = [
            (f"const {count} *", f"{self.name}_counts"),
            (f"const {displacement} *", f"{self.name}_displs"),
        ]
        if self.kind == "V":
            return [*begin, *arrays, ("MPI_Datatype ", f"{self.name}_type")]
        return [*begin, *arrays, ("const MPI_Datatype *", f"{self.name}_types")]


@dataclass(frozen=True)
class Function:
    """A function with buffers, in one of its forms."""

    name: str
    large: bool
    form: str
    arguments: tuple[Buffer | str, ...]
    collective: bool

    @property
    def symbol(self) -> str:
        """Its name without MPI_."""
        return f"{self.name}_c" if self.large else self.name

    @property
    def is_chosen(self) -> bool:
        """Whether an algorithm of roundelay's may run it."""
        return self.name in table.CHOSEN.split()

    @property
    def buffers(self) -> list[Buffer]:
        """The arguments that are buffers."""
        return [each for each in self.arguments if isinstance(each, Buffer)]

    def parameters(self) -> list[tuple[str, str]]:
        """Types and names of all arguments in C."""
        count = "MPI_Count" if self.large else "int"
        found: list[tuple[str, str]] = []
        for each in self.arguments:
            if isinstance(each, Buffer):
                aint = self.large or "Neighbor_alltoallw" in self.name or "neighbor_alltoallw" in self.name
                found += each.parameters(count, "MPI_Aint" if aint else "int")
            elif each == "count":
                found.append((f"{count} ", "count"))
            elif each == "counts":
                found.append((f"const {count} *", "counts"))
            else:
                kind, name = re.fullmatch(r"(.*\W)(\w+)", table.TYPES[each]).groups()  # type: ignore[union-attr]
                found.append((kind, name))
        return found


def read(line: str) -> tuple[str, tuple[Buffer | str, ...]]:
    """The name and the arguments that a line of the table says."""
    name, *words = line.split()
    arguments: list[Buffer | str] = []
    for word in words:
        match = _BUFFER.fullmatch(word)
        if match is None:
            arguments.append(word)
            continue
        found = match.groupdict()
        arguments.append(
            Buffer(
                found["name"], found["side"], found["kind"], bool(found["keeps"]), bool(found["shared"]),
                found["blocks"] or "", bool(found["root"]),
            )
        )  # fmt: skip
    return name, tuple(arguments)


def lines_of(text: str) -> list[str]:
    """The lines of a part of the table."""
    return text.strip().splitlines()


def named(text: str) -> Iterator[tuple[str, str]]:
    """Names, and arguments in C, of a part of the table."""
    for line in lines_of(text):
        name, arguments = line.split(maxsplit=1)
        yield name, arguments


def functions() -> Iterator[Function]:
    """All functions with buffers, in all their forms."""
    for line in lines_of(table.PASSED):
        name, arguments = read(line)
        yield Function(name, False, "blocking", arguments, collective=False)
    for large in (False, True):
        for line in lines_of(table.POINT_TO_POINT):
            name, arguments = read(line)
            form = "nonblocking" if "request" in arguments else "blocking"
            if name.endswith("_init"):
                form = "persistent"
            yield Function(name, large, form, arguments, collective=False)
        for line in lines_of(table.COLLECTIVES):
            name, arguments = read(line)
            if large and not any(isinstance(each, Buffer) for each in arguments):
                continue
            yield Function(name, large, "blocking", arguments, collective=True)
            yield Function(f"I{name.lower()}", large, "nonblocking", (*arguments, "request"), collective=True)
            prepared = (*arguments, "info", "request")
            yield Function(f"{name}_init", large, "persistent", prepared, collective=True)


def by_hand() -> Iterator[tuple[str, str]]:
    """Names and arguments of the functions that are not described by their buffers."""
    for line in lines_of(table.COMMUNICATORS):
        symbol, *names = line.split()
        yield symbol, ", ".join(table.TYPES[each] for each in names)
    yield from named(table.COMPLETIONS)
    for name, arguments in named(table.PACKING):
        yield name, arguments.replace("COUNT", "int")
        yield f"{name}_c", arguments.replace("COUNT", "MPI_Count")


def declared(parameters: list[tuple[str, str]]) -> str:
    """Arguments as C declares them."""
    return ", ".join(f"{kind}{name}" for kind, name in parameters)


def header() -> str:
    """The text of functions.h."""
    intercepted = [(each.symbol, declared(each.parameters())) for each in functions()] + list(by_hand())
    lines = ["/* Generated by generate.py from table.py. */", "#ifndef ROUNDELAY_FUNCTIONS_H"]
    lines += ["#define ROUNDELAY_FUNCTIONS_H", '#include "abi.h"', "", "/* The library's functions. */"]
    lines += ["struct functions {"]
    lines += [f"    int (*{name})({arguments});" for name, arguments in [*intercepted, *named(table.CALLED)]]
    lines += ["};", "extern struct functions next;", "", "/* The functions that replace them. */"]
    lines += [f"int roundelay_{name}({arguments});" for name, arguments in intercepted]
    lines += ["", "enum function {"]
    performed = lines_of(table.PERFORMED)
    lines += [f"    FUNCTION_{name}," for name in [*(name for name, _ in intercepted), *performed]]
    lines += ["    FUNCTIONS", "};", "", "/* Their names. */", "#define INTERCEPTED(X) \\"]
    lines += [" \\\n".join(f"    X({name})" for name, _ in intercepted), "#define PERFORMED(X) \\"]
    lines += [" \\\n".join(f"    X({name})" for name in performed), "", "#define CALLED(X) \\"]
    lines += [" \\\n".join(f"    X({name})" for name, _ in named(table.CALLED)), "", "#endif", ""]
    return "\n".join(lines)


def passes(function: Function) -> str:
    """The condition under which a call goes on as it is."""
    conditions = ["!special"]
    for buffer in function.buffers:
        if buffer.kind == "W":
            conditions.append(f"all_pass({_blocks(buffer)}, {buffer.name}, {buffer.name}_types)")
        elif not buffer.shared:
            passed = f"passes({buffer.name}_type)"
            if not function.collective and "PACKED" not in _flags(function, buffer):
                passed = f"({passed} || stays({buffer.name}, {buffer.name}_count, {buffer.name}_type))"
            conditions.append(passed)
    return " && ".join(conditions)


def _blocks(buffer: Buffer) -> str:
    return {"": "1", **{name: f"{name}_of(comm)" for name in ("ranks", "sources", "destinations")}}[
        buffer.blocks
    ]


def _flags(function: Function, buffer: Buffer) -> str:
    """How a buffer is staged, as staging.h names it."""
    flags = [{"S": "SENDS", "R": "RECEIVES", "B": "RECEIVES | SENDS"}[buffer.side]]
    if function.collective and buffer.side == "B":
        flags = ["(rank_of(comm) == root ? SENDS : RECEIVES)"]
    if function.name == "Isendrecv_replace":
        # MPICH 5.0.2 mistakes datatypes with gaps there, and does not say how much arrived.
        flags += ["PACKED", "MOVED"]
    if buffer.keeps and buffer.blocks == "sources":
        flags += ["(lacks_sources(comm) ? FILLS : 0)"]
    elif buffer.keeps or function.name == "Isendrecv_replace":
        flags += ["FILLS"]
    if not function.collective:
        flags += ["DESCRIBES"]
    elif len(function.buffers) == 2 and buffer.side == "R":
        flags += [f"({function.buffers[0].name} == MPI_IN_PLACE ? FILLS : 0)"]
    if function.is_chosen:
        # Ranks must make the same calls, whatever datatypes each of them has.
        flags += ["(ours ? PACKED : 0)"]
    return " | ".join(flags)


def _condition(function: Function, buffer: Buffer) -> str:
    """When a buffer counts; empty where it always does."""
    if function.collective:
        return "rank_of(comm) == root" if buffer.root else ""
    if "message" in function.arguments:
        return ""
    if buffer.side == "B":
        return "dest != MPI_PROC_NULL || source != MPI_PROC_NULL"
    return f"{'dest' if buffer.side == 'S' else 'source'} != MPI_PROC_NULL"


def staging(function: Function, buffer: Buffer) -> str:
    """The statement that stages one buffer."""
    name, flags, blocks = buffer.name, _flags(function, buffer), _blocks(buffer)
    address = f"(void **)&{name}" if buffer.side == "S" else f"&{name}"
    first = f"&operation, {flags}, {address}"
    if buffer.shared:
        call = f"stage_array({first});"
    elif not buffer.kind:
        count = "MPI_Count" if function.large else "int"
        staged = f"stage_blocks({first}, {name}_count, &{name}_type, {blocks})"
        call = f"{name}_count = ({count}){staged};"
    else:
        convert, types = ("stage_vector", "type") if buffer.kind == "V" else ("stage_types", "types")
        arrays = f"{name}_counts, (const void **)&{name}_displs, &{name}_{types}"
        call = f"{convert}({first}, {blocks}, WIDTHS({name}), {arrays});"
    condition = _condition(function, buffer)
    return f"if ({condition}) {{ {call} }}" if condition else call


def _collective(function: Function) -> list[str]:
    """The statements that decide whether an algorithm of ours runs a call, and describe it."""
    arguments, last = function.arguments, function.buffers[-1]
    facts = [f".function = FUNCTION_{function.symbol}", f".form = {function.form.upper()}", ".comm = comm"]
    facts += [f".{name} = {name}" for name in ("op", "root") if name in arguments]
    if "counts" in arguments:
        facts += [".counts = {counts, sizeof *counts}"]
    elif last.kind:
        facts += [f".counts = {{{last.name}_counts, sizeof *{last.name}_counts}}"]
        facts += [f".displs = {{{last.name}_displs, sizeof *{last.name}_displs}}"]
    else:
        facts += [f".count = {'count' if last.shared else f'{last.name}_count'}"]
    facts += [f".type = {'datatype' if last.shared else f'{last.name}_type'}"]
    return [
        f"    struct frame *frame = engaged_frame(FUNCTION_{function.symbol});",
        "    struct collective collective;",
        "    bool ours = false;",
        "    if (UNLIKELY(frame != NULL)) {",
        f"        collective = (struct collective){{{', '.join(facts)}}};",
        "        ours = is_ours(frame, &collective);",
        "    }",
    ]


def _run_collective(function: Function, call: str) -> list[str]:
    """The statements that run a call by an algorithm of ours, or by the library."""
    first, last = function.buffers[0], function.buffers[-1]
    lines = [
        f"            collective.sent = {first.name};",
        f"            collective.received = {last.name};",
    ]
    types = ["datatype" if each.shared else f"{each.name}_type" for each in (first, last)]
    lines += [f"            collective.sent_type = {types[0]};"]
    lines += [f"            collective.received_type = {types[1]};"]
    if not first.shared:
        lines += [f"            collective.sent_count = {first.name}_count;"]
    if last.kind:
        lines += [f"            collective.displs.numbers = {last.name}_displs;"]
    request = "NULL" if function.form == "blocking" else "request"
    return [
        "        code = LEFT;",
        "        if (UNLIKELY(ours)) {",
        *lines,
        f"            code = run_ours(&operation, &collective, {request});",
        "        }",
        "        if (LIKELY(code == LEFT))",
        f"            code = {call};",
        "        if (UNLIKELY(ours) && UNLIKELY(collective.after != NULL))",
        "            code = end_library(&collective, code);",
    ]


def _seen(function: Function) -> list[str]:
    """What an observer is told of a call."""
    arguments = function.arguments
    facts = [f".function = FUNCTION_{function.name}", f".form = {function.form.upper()}"]
    if "comm" in arguments:
        facts += [".has_comm = true", ".comm = comm"]
    if function.collective:
        facts += [".is_collective = true"]
        facts += [".is_rooted = true, .dest = root"] if "root" in arguments else []
        facts += [".has_op = true, .op = op"] if "op" in arguments else []
    elif "comm" in arguments:
        tags = {"sends": ("dest", "sendtag"), "receives": ("source", "recvtag")}
        for does, (peer, tag) in tags.items():
            if peer in arguments:
                facts += [f".{does} = true, .{peer} = {peer}, .{tag} = {tag if tag in arguments else 'tag'}"]
    facts += _seen_bytes(function)
    facts += [f".{name} = {name}" for name in ("request", "status", "flag") if name in arguments]
    facts += [".probes = true"] if function.name in ("Probe", "Iprobe") else []
    facts += [".waits = LOOKS"] if "flag" in arguments else []
    return facts


def _seen_bytes(function: Function) -> list[str]:
    """How an observer is told the size of the block that each rank gives, if all give the same."""
    if "count" in function.arguments:
        return [".has_bytes = true, .count = count, .type = datatype"]
    plain = [each for each in function.buffers if not each.kind and not each.shared]
    # The root alone has the blocks of all.
    plain.sort(key=lambda each: each.root)
    if not plain or len(plain) < len(function.buffers) or "eighbor" in function.name:
        return []
    count, kind = f"{plain[0].name}_count", f"{plain[0].name}_type"
    if function.collective and len(plain) == 2:
        in_place = f"{plain[0].name} == MPI_IN_PLACE"
        count = f"{in_place} ? {plain[1].name}_count : {count}"
        kind = f"{in_place} ? {plain[1].name}_type : {kind}"
    return [f".has_bytes = true, .count = {count}, .type = {kind}"]


def enter(facts: list[str]) -> str:
    """The statement that tells an observer of a call."""
    return f"    ENTER({', '.join(facts)});"


def wrapper(function: Function) -> str:
    """The function that takes the place of one of MPI's."""
    parameters = function.parameters()
    arguments = ", ".join(name for _, name in parameters)
    call = f"next.{function.symbol}({arguments})"
    name = f"FUNCTION_{function.symbol}"
    head = [f"int roundelay_{function.symbol}({declared(parameters)})", "{"]
    if "status" in function.arguments:
        head += ["    MPI_Status own;", "    SEE_STATUS(status, &own);"]
    head += [enter(_seen(function))]
    if not function.buffers:
        return "\n".join([*head, f"    return leave({call});", "}", ""])
    plain = passes(function)
    if function.is_chosen:
        plain += " && !ours"
    if function.collective:
        plain = f"({plain}) || is_inter(comm)"
    message = not function.collective and any(buffer.side in "RB" for buffer in function.buffers)
    message = message and function.name not in ("Isendrecv", "Isendrecv_replace")
    form = function.form.upper()
    lines = [*head, *(_collective(function) if function.is_chosen else [])]
    lines += [f"    const bool special = is_special({name});"]
    lines += [f"    if (LIKELY({plain}))", f"        return leave({call});"]
    facts = f".form = {form}, .special = special, .message = {str(message).lower()}"
    lines += [f"    struct operation operation = {{{facts}}};"]
    lines += [f"    {staging(function, buffer)}" for buffer in function.buffers]
    if "status" in function.arguments:
        lines += ["    if (status == MPI_STATUS_IGNORE)", "        status = &own;"]
    lines += [
        "    int code = begin(&operation);",
        "    if (code == MPI_SUCCESS) {",
        *(_run_collective(function, call) if function.is_chosen else [f"        code = {call};"]),
    ]
    if function.form == "blocking":
        status = "status" if "status" in function.arguments else "NULL"
        lines += [f"        code = end(&operation, code, {status});"]
    else:
        lines += ["        code = started(&operation, code, request);"]
    lines += ["    }", "    return leave(code);", "}", ""]
    return "\n".join(lines)


def communicator_wrapper(name: str, arguments: list[str]) -> str:
    """The function that takes the place of one that makes or frees a communicator."""
    facts = [f".function = FUNCTION_{name}", ".has_comm = true"]
    # Ranks outside the group have no part in it.
    facts += [".is_collective = true"] if name != "Comm_create_group" else []
    frees = "freed" in arguments
    facts += [".comm = *freed", ".frees_comm = true"] if frees else [".comm = comm", ".newcomm = newcomm"]
    facts += [".form = NONBLOCKING", ".request = request"] if "request" in arguments else []
    parameters = ", ".join(table.TYPES[each] for each in arguments)
    head = [f"int roundelay_{name}({parameters})", "{", enter(facts)]
    return "\n".join([*head, f"    return leave(next.{name}({', '.join(arguments)}));", "}", ""])


def wrappers() -> str:
    """The text of wrappers.c."""
    lines = ["/* Generated by generate.py from table.py. */"]
    lines += [f'#include "{each}.h"' for each in ("collectives", "door", "operation", "staging")]
    lines += ["", *(wrapper(each) for each in functions())]
    for line in lines_of(table.COMMUNICATORS):
        name, *arguments = line.split()
        lines += [communicator_wrapper(name, arguments)]
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Write both files, each only where it changes, so that nothing is compiled in vain."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("functions.h", header()), ("wrappers.c", wrappers())):
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
