"""nowcast: from radar files to rain forecasts with known skill."""
