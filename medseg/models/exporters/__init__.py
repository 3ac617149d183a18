"""Models for other programs: ONNX networks."""
