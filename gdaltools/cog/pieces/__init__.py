"""The pieces that a COG is built from: where they lie, how they halve, and where their blocks wait."""
