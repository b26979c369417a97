"""What each label counts in training, so that no class and no source drowns the others."""
