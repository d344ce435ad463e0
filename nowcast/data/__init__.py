"""Rain as data: units, grids, the archive, windows, normalisation, forecasts. Never imports torch."""
