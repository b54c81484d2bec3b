"""Import `tei_multiplexer_pb2` for messages, `tei_multiplexer_pb2_grpc` for stubs."""
