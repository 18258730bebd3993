"""The pieces that a COG is built from: their geometry, how they are halved, and where blocks are stored."""
