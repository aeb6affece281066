"""From a trained student to files that run elsewhere, each gated against the model it was made from.

Only `torch_graph`, `targets` and `run_images`, which handle the model itself and its images, import torch; everything
else imports without torch and timm, so that the half that runs on the target machine needs neither.
"""
