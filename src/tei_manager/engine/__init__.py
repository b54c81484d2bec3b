"""A backend that speaks TEI's gRPC API and runs embedding models on the CPU."""
