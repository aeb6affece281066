"""The export pipeline: load the target, write and gate each format, publish the bundle; and `verify`."""
