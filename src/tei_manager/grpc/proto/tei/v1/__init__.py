"""Package ``tei.v1``: import `tei_pb2` for messages, `tei_pb2_grpc` for stubs."""
