"""Files: written atomically, locked, and read with care where they come from others."""
