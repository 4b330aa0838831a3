"""The engine: stage contract, loop on DeepSpeed, loader, checkpoints, EMA, tracking. Knows no method by name."""
