"""The online model: its shape, its runtimes (ONNX, torch, C), and the exact finish of Eq. 11."""
