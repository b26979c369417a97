"""The trainer: the retraining queue, the dataset, the fit, the gate, the registry and its ledger."""
