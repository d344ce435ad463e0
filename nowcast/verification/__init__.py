"""Scores of forecasts against observations: sums that add up, and what is derived from them. Never imports torch."""
