"""ONNX Runtime engine: training and evaluation graphs in plain onnxruntime, default execution order."""
