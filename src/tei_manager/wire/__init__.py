"""HTTP/2 and gRPC framing as values and state machines: no I/O, no logging, no clock of its own."""
