"""TensorRT: engines built from the ONNX files of a bundle, and run, on the machine that will serve them.

Nothing here imports TensorRT or touches a GPU before `preflight` has said that both are there, because TensorRT ends
the process of a machine without a GPU. Only `building` and `running` import it, at their top.
"""
