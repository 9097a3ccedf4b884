"""Grouped matrix products whose sizes live on the device, in Triton. Importing this package or `ops` does not import triton."""
