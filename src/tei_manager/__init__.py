"""TEI Manager: one gRPC address in front of many Text Embeddings Inference servers."""

__version__ = "0.1.0"
