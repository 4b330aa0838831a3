"""Storage, assets, model registry, jobs, clusters. Imports nothing else of this project."""
