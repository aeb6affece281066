"""Real images for the gate and for calibration."""
