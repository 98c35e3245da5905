"""Shipped configurations, which ``--config`` finds by name, such as ``digits/time_predictor``."""
