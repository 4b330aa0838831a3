"""What runs: dataset plan and build, training a method's stages, generation, evaluation, the demo, the command line."""
