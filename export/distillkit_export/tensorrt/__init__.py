"""TensorRT: build engines from a bundle's ONNX files, and run them, on the machine that will serve them.

Nothing here imports TensorRT or touches a GPU before `preflight` has found both: TensorRT crashes the process on a
machine without a GPU. Only `building` and `running` import it at module level.
"""
