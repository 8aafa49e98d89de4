"""Tables of default boxes in files: JSON as `priors show NAME --json` prints it and `priors fit` writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from singleshot.errors import ConfigError, DataError, printable
from singleshot.files import atomic_write
from singleshot.prior_boxes import PriorSpec, prior_table
from singleshot.prior_tables import PRIORS, prior_spec
from singleshot.storage import read_limited

_MAX_BYTES = 2**20
_OTHER_KEYS = ("name", "source", "count")  # of such JSON, besides the table's own


def read_priors(name: str) -> PriorSpec:
    """A table by its name, or of a JSON file, location-major. Raises ConfigError."""
    if name in PRIORS or not (name.endswith(".json") or Path(name).is_file()):
        if name not in PRIORS and "/" in name:
            raise ConfigError(f"--priors {printable(name)}: no such file")
        table = prior_spec(name)
    else:
        table = _read_file(name)
    if table.order != "location":
        raise ConfigError(f"--priors {printable(name, 60)}: its order is {table.order}; want one of order location")
    return table


def _read_file(name: str) -> PriorSpec:
    where = printable(name)
    try:
        values = json.loads(read_limited(name, _MAX_BYTES, "priors"))
        table = PriorSpec.from_dict({k: v for k, v in values.items() if k not in _OTHER_KEYS})
        with np.errstate(over="raise", invalid="raise"):
            boxes = prior_table(table)
        if not np.isfinite([*boxes.ravel(), *table.variances]).all() or len(table.variances) != 2:
            raise ValueError("default boxes that are no numbers, or not two variances")
    except DataError as error:
        raise ConfigError(f"--priors {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        shape = "want a table as `singleshot priors show ssd300-voc --json` prints it"
        raise ConfigError(f"--priors {where}: {shape} ({printable(error, 80)})") from error
    except ConfigError as error:
        raise ConfigError(f"--priors {where}: {error}") from error
    return table


def write_priors(path: str | Path, table: PriorSpec, name: str, source: str) -> None:
    """What `read_priors` reads. source: where the table comes from, in words. Raises ConfigError."""
    with atomic_write(path, durable=True) as temporary:
        values = {"name": name, "source": source, "count": table.count, **table.to_dict()}
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
