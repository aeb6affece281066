"""`distillkit profile`: latency and throughput, every configuration in its own process, in interleaved rounds.

Only the workers load runtimes; nothing here imports torch, timm or onnx.
"""
