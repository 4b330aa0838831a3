"""Prints the vocabulary for docs/fields.md."""

from preprocessing.fields.vocabulary import markdown

print(markdown(), end="")
