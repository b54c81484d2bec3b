"""Conformance, floods, slow peers and faults: the switch beside its peers, as one report."""

import os

# Servers are started by fork, between calls of gRPC clients in this process. C-core's handlers for
# that may wait for its own threads for ever; a child that goes on to exec needs none of them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
