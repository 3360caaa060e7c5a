"""papertick: a paper-trading engine that lives inside PostgreSQL. This package is its thin door."""

__version__ = "0.1.0"
