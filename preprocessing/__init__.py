"""What can be computed from a sample: fields, codecs, decoding, operators. No Ray, no training."""
