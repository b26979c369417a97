"""The score worker: the engine, the model artifact, the swap."""
