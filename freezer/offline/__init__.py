"""Making a predictor: collect trajectories, label them by CKA, train, evaluate on networks that were not in training.

Takes callables for models and data: this package knows neither a registry nor a service.
"""
