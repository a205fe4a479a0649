"""Names of the settings, known without loading what checks their values."""

from __future__ import annotations

SETTINGS = (
    *("model", "budget", "method", "codec", "config", "system"),
    *("max-new-tokens", "temperature", "top-p", "seed", "max-pixels", "keep-marks"),
    *("device", "device-map", "dtype", "load-in-8bit", "load-in-4bit"),
    *("plain", "stats", "quiet", "log"),
)
"""Options whose defaults the settings file may hold, by their long names."""
