"""Make the Python stubs from the ``.proto`` files; with ``--check``, say whether they are current.

    python tools/gen_protos.py [--check]

The compilers are pinned, and live in environments that are made for the run and thrown away. So
the output depends on nothing but the ``.proto`` files and this file: the same bytes every time.

protoc's message modules register their names with every other module's in the process, which ours
must not (see ``grpc/proto/_pool.py``). So of such a module only the serialized descriptor is kept,
in `MESSAGES`; stubs and types are kept whole, with our package put in front of their imports.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "src" / "tei_manager" / "grpc" / "proto"
PACKAGE = "tei_manager.grpc.proto"
PROTOS = ("tei/v1/tei.proto", "multiplexer/v1/tei_multiplexer.proto")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")

# protoc 25, of the oldest protobuf that we support: stubs work with the protobuf and grpcio that
# made them and with all later ones. setuptools below 81 still has the pkg_resources it imports.
COMPILER = ("grpcio-tools==1.62.3", "grpcio==1.62.3", "protobuf==4.25.9", "setuptools==80.9.0")

# Types by a plugin: mypy --strict does not pass protoc's own. It runs on a later protobuf than
# the compiler, hence in an environment of its own.
TYPER = ("mypy-protobuf==5.1.0", "protobuf==7.36.2", "types-protobuf==7.35.1.20260906")

# The Pythons for which there are wheels of that grpcio-tools and that protobuf.
PYTHONS = ("python3.11", "python3.12", "python3.10")

HEADER = "# Made from {proto} by tools/gen_protos.py. DO NOT EDIT: change that, `make protos`.\n"

MESSAGES = '''\
"""Messages and enums of ``{proto}``."""

{imports}from tei_manager.grpc.proto._pool import define as _define

DESCRIPTOR = _define(
    {serialized},
    globals(),
)
'''


def python() -> str:
    """Return an interpreter that the pinned compiler has wheels for.

    Raises:
        SystemExit: This machine has none.
    """
    if sys.version_info < (3, 13):
        return sys.executable
    found = next(filter(None, map(shutil.which, PYTHONS)), None)
    return found or sys.exit(f"gen_protos needs one of {', '.join(PYTHONS)}: install one of them")


def environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """Make a virtual environment with exactly these packages; return its folder of programs."""
    subprocess.run([python(), "-m", "venv", str(folder)], check=True)
    programs = folder / "bin"
    pip = [str(programs / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
    return programs


def compile_protos(work: Path) -> Path:
    """Run protoc with its plugins under ``work``; return the folder that holds what they wrote."""
    compiler, typer = environment(work / "compiler", COMPILER), environment(work / "typer", TYPER)
    out = work / "out"
    out.mkdir()
    command = [str(compiler / "python"), "-m", "grpc_tools.protoc", f"-I{ROOT}", *PROTOS]
    command += [f"--python_out={out}", f"--grpc_python_out={out}"]
    command += [f"--plugin={typer / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command += [f"--mypy_out=quiet:{out}"]
    command += [f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{out}"]
    subprocess.run(command, check=True)
    return out


def finish(proto: str, suffix: str, text: str) -> str:
    """Make a module of ours from what a compiler wrote for ``proto``."""
    text = re.sub(r"^from ([\w.]+\.v1) import", rf"from {PACKAGE}.\1 import", text, flags=re.M)
    if suffix == "_pb2.py":
        imports = "".join(re.findall(rf"^from {PACKAGE}\.\S+ import \w+_pb2 as .*\n", text, re.M))
        serialized = re.findall(r"AddSerializedFile\((b'.*')\)$", text, re.M)[0]
        text = MESSAGES.format(proto=proto, imports=imports, serialized=serialized)
    # Two names that only later compilers give to the modules that these are the types of.
    text = text.replace("GRPC_GENERATED_VERSION: str\nGRPC_VERSION: str\n\n", "")
    return HEADER.format(proto=proto) + text


def generate() -> Iterator[tuple[Path, str]]:
    """Yield each generated file: where it belongs, and what it has to hold."""
    with tempfile.TemporaryDirectory(prefix="gen-protos-") as work:
        out = compile_protos(Path(work))
        for proto in PROTOS:
            for suffix in SUFFIXES:
                name = proto.removesuffix(".proto") + suffix
                yield ROOT / name, finish(proto, suffix, (out / name).read_text("utf-8"))


def is_current(path: Path, text: str) -> bool:
    """Return whether the file is there and holds just this text."""
    return path.exists() and path.read_text("utf-8") == text


def main() -> None:
    """Write the generated files, or compare them with what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one differs")
    check = parser.parse_args().check
    stale = {path: text for path, text in generate() if not is_current(path, text)}
    if check and stale:
        names = ", ".join(path.name for path in stale)
        sys.exit(f"not what the .proto files give: {names}; run `make protos`")
    for path, text in stale.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
