"""Files: written atomically, and read with care where they come from others."""
