"""ONNX graphs of encoders from ``config.json`` and safetensors; see `writer`."""
