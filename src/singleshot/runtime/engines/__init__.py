"""What runs an exported file: OpenVINO or ONNX Runtime. An engine is imported when it is asked for."""
