"""The script that writes ONNX files runs in an environment of its own, with PyTorch."""

collect_ignore = ["make_onnx_sources.py"]
