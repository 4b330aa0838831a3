"""One folder per method, plus what several methods share. Torch only: no Ray, no DeepSpeed, no MLflow."""
