"""Recipes: what a kind of dataset holds, as YAML. `fields` are wanted, `operators` gives settings other than the defaults."""
