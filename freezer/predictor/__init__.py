"""The predictor: a unit's recent weight history in, the calibrated probability that it has converged out."""
