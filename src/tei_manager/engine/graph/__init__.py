"""ONNX graphs of encoders from ``config.json`` and ``model.safetensors``; see `writer`."""
