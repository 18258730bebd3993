"""How long things take here: a grid of measurements, a model of them, and the thresholds that follow."""
