"""Comparison of runs: arms and repetitions, figures with spread, cost, curves, answers on images, and its page."""
