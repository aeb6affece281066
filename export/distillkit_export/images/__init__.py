"""Images for the gate and for calibration."""
