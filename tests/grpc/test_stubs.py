"""The public stubs say what contracts.md says, and get on with other stubs of the same names."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from tei_manager.grpc.methods import METHODS, MULTIPLEXER, Kind, Shape
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

# One line a message, one entry a field: number, name, type; `?` for optional, `*` for repeated.
TEI_MESSAGES = """
InfoRequest:
InfoResponse: 1 version string, 2 sha string?, 3 docker_label string?, 4 model_id string,\
 5 model_sha string?, 6 model_dtype string, 7 model_type ModelType,\
 8 max_concurrent_requests uint32, 9 max_input_length uint32, 10 max_batch_tokens uint32,\
 11 max_batch_requests uint32?, 12 max_client_batch_size uint32, 13 tokenization_workers uint32
Metadata: 1 compute_chars uint32, 2 compute_tokens uint32, 3 total_time_ns uint64,\
 4 tokenization_time_ns uint64, 5 queue_time_ns uint64, 6 inference_time_ns uint64
EmbedRequest: 1 inputs string, 2 truncate bool, 3 normalize bool?,\
 4 truncation_direction TruncationDirection, 5 prompt_name string?, 6 dimensions uint32?
EmbedResponse: 1 embeddings float*, 2 metadata Metadata
EmbedSparseRequest: 1 inputs string, 2 truncate bool,\
 3 truncation_direction TruncationDirection, 4 prompt_name string?
SparseValue: 1 index uint32, 2 value float
EmbedSparseResponse: 1 sparse_embeddings SparseValue*, 2 metadata Metadata
EmbedAllRequest: 1 inputs string, 2 truncate bool,\
 3 truncation_direction TruncationDirection, 4 prompt_name string?
TokenEmbedding: 1 embeddings float*
EmbedAllResponse: 1 token_embeddings TokenEmbedding*, 2 metadata Metadata
PredictRequest: 1 inputs string, 2 truncate bool, 3 raw_scores bool,\
 4 truncation_direction TruncationDirection
PredictPairRequest: 1 inputs string*, 2 truncate bool, 3 raw_scores bool,\
 4 truncation_direction TruncationDirection
Prediction: 1 score float, 2 label string
PredictResponse: 1 predictions Prediction*, 2 metadata Metadata
RerankRequest: 1 query string, 2 texts string*, 3 truncate bool, 4 raw_scores bool,\
 5 return_text bool, 6 truncation_direction TruncationDirection
RerankStreamRequest: 1 query string, 2 text string, 3 truncate bool, 4 raw_scores bool,\
 5 return_text bool, 6 truncation_direction TruncationDirection
Rank: 1 index uint32, 2 text string?, 3 score float
RerankResponse: 1 ranks Rank*, 2 metadata Metadata
EncodeRequest: 1 inputs string, 2 add_special_tokens bool, 3 prompt_name string?
SimpleToken: 1 id uint32, 2 text string, 3 special bool, 4 start uint32?, 5 stop uint32?
EncodeResponse: 1 tokens SimpleToken*
DecodeRequest: 1 ids uint32*, 2 skip_special_tokens bool
DecodeResponse: 1 text string
"""

WRAPPED = ["Embed", "EmbedSparse", "EmbedAll", "Predict", "PredictPair", "Rerank"]
WRAPPED += ["RerankStream", "Encode", "Decode"]
MUX_MESSAGES = """
Target: 1 instance_name string, 2 index uint32, 3 model string
InfoRequest: 1 target Target
""" + "".join(f"{name}Request: 1 target Target, 2 request {name}Request\n" for name in WRAPPED)

# One line a service: `>` for streamed requests and one response, `<>` for streams both ways.
TEI_SERVICES = """
Info: Info
Embed: Embed, EmbedStream <>, EmbedSparse, EmbedSparseStream <>, EmbedAll, EmbedAllStream <>
Predict: Predict, PredictPair, PredictStream <>, PredictPairStream <>
Rerank: Rerank, RerankStream >
Tokenize: Tokenize, TokenizeStream <>, Decode, DecodeStream <>
"""
MUX_METHODS = """Info, Embed, EmbedStream <>, EmbedSparse, EmbedSparseStream <>, EmbedAll,
EmbedAllStream <>, Predict, PredictStream <>, PredictPair, PredictPairStream <>, Rerank,
RerankStream >, Tokenize, TokenizeStream <>, Decode, DecodeStream <>"""

ARROWS = {(False, False): "", (True, False): " >", (False, True): " <", (True, True): " <>"}
KINDS = {"": Kind.UNARY, " >": Kind.CLIENT_STREAM, " <>": Kind.BIDI}
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FLOAT: "float",
}


def field_text(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    mark = "*" if field.is_repeated else ""
    if field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}":
        mark = "?"
    return f"{field.number} {field.name} {kind.name if kind else TYPES[field.type]}{mark}"


def message_text(message: Descriptor) -> str:
    return f"{message.name}: {', '.join(map(field_text, message.fields))}".strip()


def messages(file: FileDescriptor) -> set[str]:
    return {message_text(message) for message in file.message_types_by_name.values()}


def methods(file: FileDescriptor, service: str) -> dict[str, str]:
    """Return the arrows of each method of a service."""
    return {
        method.name: ARROWS[method.client_streaming, method.server_streaming]
        for method in file.services_by_name[service].methods
    }


def parse_methods(text: str) -> dict[str, str]:
    return {entry.split()[0]: entry[len(entry.split()[0]) :] for entry in split(text)}


def split(text: str) -> list[str]:
    return [" ".join(entry.split()) for entry in text.split(",")]


def in_fresh_python(program: str) -> str:
    """Run a program in an interpreter that has loaded nothing yet; return what it printed."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_messages_of_tei_have_the_published_field_numbers_and_types() -> None:
    assert messages(tei_pb2.DESCRIPTOR) == {*TEI_MESSAGES.strip().splitlines()}


def test_messages_of_the_multiplexer_have_the_published_field_numbers_and_types() -> None:
    assert messages(mux_pb2.DESCRIPTOR) == {*MUX_MESSAGES.strip().splitlines()}


def test_a_target_has_one_of_three_routings() -> None:
    (routing,) = mux_pb2.Target.DESCRIPTOR.oneofs
    assert routing.name == "routing"
    assert [field.number for field in routing.fields] == [1, 2, 3]


def test_inner_requests_are_the_tei_message_of_the_same_name() -> None:
    for message in mux_pb2.DESCRIPTOR.message_types_by_name.values():
        if inner := message.fields_by_name.get("request"):
            assert inner.message_type is getattr(tei_pb2, message.name).DESCRIPTOR


def test_enums_have_the_published_numbers() -> None:
    assert dict(tei_pb2.ModelType.items()) == {
        "MODEL_TYPE_EMBEDDING": 0,
        "MODEL_TYPE_CLASSIFIER": 1,
        "MODEL_TYPE_RERANKER": 2,
    }
    assert dict(tei_pb2.TruncationDirection.items()) == {
        "TRUNCATION_DIRECTION_RIGHT": 0,
        "TRUNCATION_DIRECTION_LEFT": 1,
    }
    assert tei_pb2.TRUNCATION_DIRECTION_LEFT == 1


def test_services_of_tei_have_the_published_methods_and_streams() -> None:
    file = tei_pb2.DESCRIPTOR
    expected = dict(line.split(": ") for line in TEI_SERVICES.strip().splitlines())
    assert {*file.services_by_name} == {*expected}
    for service, text in expected.items():
        assert methods(file, service) == parse_methods(text)


def test_the_multiplexer_has_every_tei_method_and_answers_with_tei_messages() -> None:
    file = mux_pb2.DESCRIPTOR
    assert methods(file, "TeiMultiplexer") == parse_methods(MUX_METHODS)
    for method in file.services_by_name["TeiMultiplexer"].methods:
        assert method.output_type.file is tei_pb2.DESCRIPTOR


def test_only_info_is_idempotent() -> None:
    info = tei_pb2.DESCRIPTOR.services_by_name["Info"].methods[0]
    assert info.GetOptions().idempotency_level == MethodOptions.IDEMPOTENT
    for service in tei_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            assert method is info or not method.GetOptions().ListFields()


def test_descriptors_carry_the_published_file_and_package_names() -> None:
    assert (tei_pb2.DESCRIPTOR.name, tei_pb2.DESCRIPTOR.package) == ("tei/v1/tei.proto", "tei.v1")
    assert mux_pb2.DESCRIPTOR.package == "tei_multiplexer.v1"
    assert mux_pb2.DESCRIPTOR.services_by_name["TeiMultiplexer"].full_name == MULTIPLEXER


def test_our_messages_are_not_in_the_pool_that_everyone_shares() -> None:
    assert tei_pb2.DESCRIPTOR.pool is mux_pb2.DESCRIPTOR.pool
    assert tei_pb2.DESCRIPTOR.pool is not descriptor_pool.Default()
    for name in ("tei/v1/tei.proto", "multiplexer/v1/tei_multiplexer.proto"):
        with pytest.raises(KeyError):
            descriptor_pool.Default().FindFileByName(name)


def test_the_method_table_agrees_with_the_descriptors() -> None:
    described = mux_pb2.DESCRIPTOR.services_by_name["TeiMultiplexer"].methods_by_name
    assert {*METHODS} == {f"/{MULTIPLEXER}/{name}" for name in described}
    for path, method in METHODS.items():
        found = described[method.name]
        inner = found.input_type.fields_by_name.get("request")
        fields = inner.message_type.fields_by_name if inner and inner.message_type else {}
        direction = fields.get("truncation_direction")
        assert path == method.path == f"/{MULTIPLEXER}/{method.name}"
        assert method.kind is KINDS[ARROWS[found.client_streaming, found.server_streaming]]
        assert method.shape is (Shape.WRAPPED if inner else Shape.TARGET_ONLY)
        assert method.direction_field == (direction.number if direction else 0)


def test_backend_paths_are_methods_of_tei_with_the_same_messages_and_streams() -> None:
    described = mux_pb2.DESCRIPTOR.services_by_name["TeiMultiplexer"].methods_by_name
    for method in METHODS.values():
        package, service, name = method.backend_path[1:].replace("/", ".").rsplit(".", 2)
        backend = tei_pb2.DESCRIPTOR.services_by_name[service].methods_by_name[name]
        ours = described[method.name]
        assert package == "tei.v1"
        if method.name == "RerankStream":  # built upon PredictPairStream
            continue
        assert backend.input_type.name == ours.input_type.name
        assert backend.output_type is ours.output_type
        assert backend.client_streaming == ours.client_streaming
        assert backend.server_streaming == ours.server_streaming


@pytest.mark.parametrize("implementation", ["upb", "python"])
@pytest.mark.parametrize("order", ["theirs before ours", "ours before theirs"])
def test_stubs_of_tei_client_load_in_either_order_and_exchange_bytes(
    order: str, implementation: str
) -> None:
    imports = [
        "from tei_client.stubs import tei_pb2 as theirs",
        "from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux\n"
        "from tei_manager.grpc.proto.tei.v1 import tei_pb2 as ours",
    ]
    program = f"""
import os
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = {implementation!r}
{chr(10).join(imports if order.startswith("theirs") else reversed(imports))}
target = mux.Target(instance_name="x")
sent = mux.EmbedRequest(target=target, request=ours.EmbedRequest(inputs="a", normalize=False))
inner = mux.EmbedRequest.FromString(sent.SerializeToString()).request
read = theirs.EmbedRequest.FromString(inner.SerializeToString())
answer = theirs.EmbedResponse(embeddings=[1.0, 2.0]).SerializeToString()
answered = ours.EmbedResponse.FromString(answer)
print(type(inner) is ours.EmbedRequest, read.inputs, *answered.embeddings)
"""
    assert in_fresh_python(program) == "True a 1.0 2.0\n"


def test_importing_the_stubs_imports_nothing_else_of_ours() -> None:
    loaded = in_fresh_python(
        """
        import sys
        from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc
        from tei_manager.grpc.proto.tei.v1 import tei_pb2_grpc
        print(*(name for name in sys.modules if name.startswith("tei_manager")))
        """
    )
    parents = {"tei_manager", "tei_manager.grpc"}
    others = {name for name in loaded.split() if not name.startswith("tei_manager.grpc.proto")}
    assert others == parents


def test_messages_know_their_module_and_can_be_pickled() -> None:
    request = mux_pb2.EmbedRequest(target=mux_pb2.Target(index=1))
    assert type(request).__module__ == mux_pb2.__name__
    assert pickle.loads(pickle.dumps(request)) == request


def test_generated_files_say_that_they_are_not_to_be_edited() -> None:
    folder = Path(mux_pb2.__file__).parents[2]
    generated = sorted(folder.glob("*/v1/*_pb2*.py*"))
    assert len(generated) == 8
    for path in generated:
        assert "DO NOT EDIT" in path.read_text("utf-8").splitlines()[0]


def test_typed_stubs_accept_a_strictly_checked_program_and_refuse_a_wrong_one(
    tmp_path: Path,
) -> None:
    source = Path(mux_grpc.__file__).parents[5]
    good = Path(__file__).with_name("typed_user.py")
    bad = tmp_path / "wrong_user.py"
    bad.write_text(
        "from tei_manager.grpc.proto.tei.v1 import tei_pb2\ntei_pb2.EmbedRequest(inputs=1)\n",
        "utf-8",
    )
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(good), str(bad)],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(source)},
        timeout=110,
        check=False,
    )
    assert done.stdout.splitlines()[-1].startswith("Found 1 error in 1 file"), done.stdout
    assert 'wrong_user.py:2: error: Argument "inputs"' in done.stdout


class Echo(mux_grpc.TeiMultiplexerServicer):
    """Answers with the length of each text."""

    def Embed(  # noqa: N802 - the name in the .proto
        self, request: mux_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> tei_pb2.EmbedResponse:
        return tei_pb2.EmbedResponse(embeddings=[len(request.request.inputs)])

    def EmbedStream(  # noqa: N802 - the name in the .proto
        self, request_iterator: Iterator[mux_pb2.EmbedRequest], context: grpc.ServicerContext
    ) -> Iterator[tei_pb2.EmbedResponse]:
        return (self.Embed(request, context) for request in request_iterator)


@pytest.fixture
def address() -> Iterator[str]:
    """Yield the address of a server that runs `Echo`."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    mux_grpc.add_TeiMultiplexerServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait(timeout=10)


def requests(*texts: str) -> list[mux_pb2.EmbedRequest]:
    target = mux_pb2.Target(instance_name="x")
    inner = [tei_pb2.EmbedRequest(inputs=text) for text in texts]
    return [mux_pb2.EmbedRequest(target=target, request=request) for request in inner]


def test_one_stub_class_serves_a_blocking_channel(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        assert stub.Embed(requests("abc")[0], timeout=10).embeddings == [3]
        answers = stub.EmbedStream(iter(requests("a", "bc")), timeout=10)
        assert [answer.embeddings[0] for answer in answers] == [1, 2]


@pytest.mark.asyncio
async def test_one_stub_class_serves_an_asyncio_channel(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        assert (await stub.Embed(requests("abc")[0], timeout=10)).embeddings == [3]
        answers = stub.EmbedStream(iter(requests("a", "bc")), timeout=10)
        assert [answer.embeddings[0] async for answer in answers] == [1, 2]
