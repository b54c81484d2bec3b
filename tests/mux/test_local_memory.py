"""What calls that are answered here may hold for a client that does not read."""

from __future__ import annotations

from grpc_reflection.v1alpha import reflection_pb2
from memory_switch import memory_switch
from multiplexer import framed

from tei_manager.grpc.methods import MULTIPLEXER

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def test_answers_that_nobody_reads_stop_at_the_memory_limit() -> None:
    """Forty questions on each of 400 calls would have a hundred MiB of answers."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=MULTIPLEXER)
    questions = framed(request.SerializeToString()) * 40
    with memory_switch(memory_limit_mb=50) as memory:
        client = memory.connect()
        client.credits = False
        client.window(0)
        memory.settle()
        calls = [client.call(REFLECTION) for _ in range(400)]
        memory.settle()
        for call in calls:
            client.send(call, questions)
        memory.settle()
        pool, mark = memory.switch.pool, memory.switch.memory_mark
        assert mark < pool.queued < mark + (8 << 20)  # each may have one answer more
