"""What docs/zoo.md is illustrated with: figures of layers, and the table of members."""
