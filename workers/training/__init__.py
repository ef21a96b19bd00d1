"""What runs inside the ranks: models, data, the loop, checkpoints. The only part of workers that loads torch."""
