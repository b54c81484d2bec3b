"""The descriptor pool that our stubs share, apart from the one that all other stubs share.

protobuf registers the messages of a process by their full names, and refuses a second file that
defines a name again unless it is the same file to the byte. A program that uses stubs of ``tei.v1``
made elsewhere would so fail on import, ours or theirs, whichever comes second. Names in a pool of
our own meet nobody: both sets of classes live side by side and exchange bytes.

protoc's Python modules cannot be told which pool to use (their builder registers each message in
the default one as well), so ours call `define` instead.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

_POOL = DescriptorPool()


def define(serialized: bytes, module: dict[str, Any]) -> FileDescriptor:
    """Put a file into the pool and its messages and enums into the module that stands for it.

    Args:
        serialized: The file as a ``FileDescriptorProto``; the files that it imports are there.
        module: The module's ``globals()``; gets what a module by protoc would hold.

    Returns:
        The file's descriptor, the module's ``DESCRIPTOR``.
    """
    file = _POOL.AddSerializedFile(serialized)
    for name, message in file.message_types_by_name.items():
        module[name] = GetMessageClass(message)
        module[name].__module__ = module["__name__"]
    for name, enum in file.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    return file
