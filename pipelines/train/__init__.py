"""Training a method's stages: from a command line to a registered, reload-checked version."""
