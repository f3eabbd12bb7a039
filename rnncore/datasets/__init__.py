"""Small data files that come with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SUNSPOTS"]

#: Yearly mean total sunspot number, 1700 ... 2008, in columns "year" and "sunspots": the international number
#: in its first version, as the Royal Observatory of Belgium (SILSO) kept it until 2015 and NOAA's National
#: Geophysical Data Center gave it out. Public domain.
SUNSPOTS = Path(__file__).with_name("sunspots.csv")
