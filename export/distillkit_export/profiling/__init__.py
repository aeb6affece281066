"""How fast a student is on this machine: every configuration in a process of its own, measured in turns.

Only the workers load runtimes; nothing here imports torch, timm or onnx.
"""
