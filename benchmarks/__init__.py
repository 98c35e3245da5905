"""Timings as ratios, runnable by anyone, and the comparison over seeds."""
