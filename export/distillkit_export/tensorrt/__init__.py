"""TensorRT engines: built from the ONNX files of a bundle, on the machine that will run them, and run there.

Nothing here imports TensorRT or touches a GPU before `preflight` has said that both are there, because TensorRT ends
the process of a machine without a GPU. Only `building` and `running` import it, at their top.
"""
