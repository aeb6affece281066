"""`distillkit profile`: latency and throughput, each configuration in its own process, in interleaved rounds.

Only the workers load runtimes; nothing here imports torch, timm or onnx.
"""
