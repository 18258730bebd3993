"""How long an operation takes and how much memory: a model in megabytes, from measured rates.

Time is a start-up cost plus uncompressed megabytes over a rate a core, times the share of the cores' speed
that was seen to be used; memory is what a process holds before it opens anything plus what each thread
holds at work. Both come from `CALIBRATION`, which names the machine that it was measured on: on another one
they are a guess of the right order.

>>> estimate_megabytes("create_cog", 1000, cores=2).seconds > estimate_megabytes("create_cog", 1000, cores=8).seconds
True
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from gdaltools.errors import InvalidParameter
from gdaltools.raster import RasterInfo, inspect
from gdaltools.storage import Location, StrPath

Operation = Literal["extract_tiles", "create_cog"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
