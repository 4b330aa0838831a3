"""Numbers about finished videos and finished stages."""
