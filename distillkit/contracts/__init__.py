"""What plugins and the core promise each other: models, losses, exporters, runtimes. Imports no torch."""
