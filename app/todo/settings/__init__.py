"""Settings: `base` is common to `test` and `release`."""
